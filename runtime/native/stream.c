/* One stream on its way from samples to logits: framing, the codes of a network step, states carried from step to step,
   and a watch over the logits. Most steps of most streams can fire nothing; they wait in memory until somebody looks. */

#include <string.h>

#include "edgeaudio.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define CHOOSES_CPU /* the same operations on eight or sixteen values at once */
#define WIDE_TARGET __attribute__((target("avx512f")))
#endif

int32_t edgeaudio_version(void) { return EDGEAUDIO_VERSION; }

#define LANES 8 /* values in a row, which compilers put into vectors where their number is a constant */

static inline int8_t code(float x, float scale, float zero_point, float least, float most) {
    const float round = 12582912.0f;
    x /= scale;
    x = x > least ? x : least;
    x = x < most ? x : most;
    return (int8_t)(int32_t)(((x + round) - round) + zero_point);
}

#ifdef CHOOSES_CPU
WIDE_TARGET static int32_t quantize_wide(const float *features, int32_t n, float scale, float zero_point, float least,
                                         float most, int8_t *codes) {
    const __m512 round = _mm512_set1_ps(12582912.0f), zero = _mm512_set1_ps(zero_point), unit = _mm512_set1_ps(scale);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 x = _mm512_div_ps(_mm512_loadu_ps(features + i), unit);
        x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(least)), _mm512_set1_ps(most));
        x = _mm512_add_ps(_mm512_sub_ps(_mm512_add_ps(x, round), round), zero);
        _mm_storeu_si128((__m128i *)(codes + i), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(x)));
    }
    return i;
}

WIDE_TARGET static int32_t widen_wide(const int16_t *samples, int32_t n, double *values) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i eight = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(samples + i)));
        _mm512_storeu_pd(values + i, _mm512_cvtepi32_pd(eight));
    }
    return i;
}
#endif

/* clip(rint(x / scale) + zero_point, low, high): adding and taking 1.5 * 2^23 rounds half to even without libm. */
void edgeaudio_quantize(const float *restrict features, int32_t n, float scale, float zero_point, float low, float high,
                        int8_t *restrict codes) {
    const float least = low - zero_point, most = high - zero_point;
    int32_t i = 0;
#ifdef CHOOSES_CPU
    if (__builtin_cpu_supports("avx512f")) i = quantize_wide(features, n, scale, zero_point, least, most, codes);
#endif
    for (; i + LANES <= n; i += LANES)
        for (int32_t k = 0; k < LANES; k++) codes[i + k] = code(features[i + k], scale, zero_point, least, most);
    for (; i < n; i++) codes[i] = code(features[i], scale, zero_point, least, most);
}

static void widen(const int16_t *restrict samples, int32_t n, double *restrict values) {
    int32_t i = 0;
#ifdef CHOOSES_CPU
    if (__builtin_cpu_supports("avx512f")) i = widen_wide(samples, n, values);
#endif
    for (; i + LANES <= n; i += LANES)
        for (int32_t k = 0; k < LANES; k++) values[i + k] = samples[i + k];
    for (; i < n; i++) values[i] = samples[i];
}

/* Moves what coming frames need to the start of the buffer. */
static void compact(edgeaudio_stream *s) {
    const int32_t kept = s->fill - s->next_frame;
    if (kept <= 0) { /* hops longer than the window leave samples out */
        s->next_frame = -kept;
        s->fill = 0;
        return;
    }
    memmove(s->buffer, s->buffer + s->next_frame, (size_t)kept * sizeof *s->buffer);
    s->fill = kept;
    s->next_frame = 0;
}

static int has_step(const edgeaudio_stream *s) {
    const edgeaudio_front_end *f = s->front_end;
    return f && s->next_frame + (s->step_frames - 1) * f->hop_length + f->win_length <= s->fill;
}

/* Whether a step was complete, and its codes lie in the input of the network. */
static int prepare(edgeaudio_stream *s) {
    const edgeaudio_front_end *f = s->front_end;
    if (!has_step(s)) return 0;
    const int32_t n = s->step_frames * s->n_features;
    float *features = s->features + (int64_t)s->n_waiting * n;
    edgeaudio_features(f, s->buffer + s->next_frame, s->step_frames, features);
    s->next_frame += s->step_frames * f->hop_length;
    edgeaudio_quantize(features, n, s->scale, s->zero_point, s->low, s->high, s->input);
    return 1;
}

int32_t edgeaudio_take(edgeaudio_stream *s) {
    const int32_t n = s->step_frames * s->n_features;
    edgeaudio_quantize(s->features + (int64_t)s->n_waiting * n, n, s->scale, s->zero_point, s->low, s->high, s->input);
    if (!s->network) return EDGEAUDIO_STEP;
    edgeaudio_run(s->network);
    return edgeaudio_after(s) & EDGEAUDIO_LOOK;
}

int32_t edgeaudio_next(edgeaudio_stream *s) {
    if (!s->network) return prepare(s) ? EDGEAUDIO_STEP : 0;
    while (prepare(s)) {
        edgeaudio_run(s->network);
        const int32_t ready = edgeaudio_after(s);
        if (ready & EDGEAUDIO_LOOK) return ready;
    }
    return 0;
}

/* Makes room for `n` samples, at most what the buffer holds beside a step that is not complete; how many are left out. */
static int32_t make_room(edgeaudio_stream *s, int32_t n) {
    const int32_t left_out = n < s->skip ? n : s->skip;
    s->n_samples += n;
    s->skip -= left_out;
    if (s->fill + n - left_out > s->buffer_length) compact(s);
    return left_out;
}

int32_t edgeaudio_push(edgeaudio_stream *s, const int16_t *samples, int32_t n) {
    const int32_t left_out = make_room(s, n);
    widen(samples + left_out, n - left_out, s->buffer + s->fill);
    s->fill += n - left_out;
    return edgeaudio_next(s);
}

int32_t edgeaudio_push_real(edgeaudio_stream *s, const float *restrict samples, int32_t n) {
    const int32_t left_out = make_room(s, n);
    double *restrict const end = s->buffer + s->fill - left_out;
    for (int32_t i = left_out; i < n; i++) end[i] = samples[i] * 32768.0;
    s->fill += n - left_out;
    return edgeaudio_next(s);
}

static void probabilities(const edgeaudio_stream *s, const int8_t *codes, double *row) {
    int32_t largest = codes[0];
    double total = 0.0;
    if (s->real_scale > 0.0) {
        for (int32_t i = 0; i < s->n_labels; i++) row[i] = (codes[i] - s->real_zero_point) * s->real_scale;
        return;
    }
    for (int32_t i = 1; i < s->n_labels; i++) largest = codes[i] > largest ? codes[i] : largest;
    for (int32_t i = 0; i < s->n_labels; i++) total += row[i] = s->powers[largest - codes[i]];
    total = 1.0 / total;
    for (int32_t i = 0; i < s->n_labels; i++) row[i] *= total;
}

/* Whether the mean over the newest outputs may reach the threshold of a label that may fire, or let go one that fired. The
   bounds lie a little on the safe side, so that rounding in another order decides nothing. */
static int is_loud(edgeaudio_stream *s, const int8_t *codes) {
    int loud = 0;
    probabilities(s, codes, s->probabilities + (int64_t)s->smoothing_at * s->n_labels);
    s->smoothing_at = s->smoothing_at + 1 < s->n_smoothing ? s->smoothing_at + 1 : 0;
    for (int32_t i = 0; i < s->n_labels; i++) {
        double sum = 0.0;
        for (int32_t k = 0; k < s->n_smoothing; k++) sum += s->probabilities[(int64_t)k * s->n_labels + i];
        const int lets_go = s->latched[i] && sum < s->releases[i];
        s->latched[i] = s->latched[i] && !lets_go;
        loud |= lets_go || (sum >= s->bounds[i] && !s->latched[i]);
    }
    return loud;
}

/* Leaves out what waited longest, where nobody will ask for it. */
static void pass_over(edgeaudio_stream *s) {
    const int32_t n_passed = s->n_waiting - s->n_kept;
    const size_t n_codes = (size_t)s->n_logits, n_features = (size_t)s->step_frames * (size_t)s->n_features;
    memmove(s->codes, s->codes + n_passed * n_codes, s->n_kept * n_codes);
    memmove(s->features, s->features + n_passed * n_features, s->n_kept * n_features * sizeof *s->features);
    s->n_passed += n_passed;
    s->n_waiting = s->n_kept;
}

int32_t edgeaudio_after(edgeaudio_stream *s) {
    int loud = s->always;
    for (int32_t i = 0; i < s->n_copies; i++) memcpy(s->copies[i].to, s->copies[i].from, (size_t)s->copies[i].n_bytes);
    memcpy(s->codes + (int64_t)s->n_waiting * s->n_logits, s->logits, (size_t)s->n_logits);
    s->n_waiting++;
    if (s->n_smoothing)
        for (int32_t i = 0; i < s->n_logits; i += s->n_labels) loud |= is_loud(s, s->logits + i);
    if (!loud && s->n_waiting == s->capacity && s->n_kept) pass_over(s);
    return (loud || s->n_waiting == s->capacity ? EDGEAUDIO_LOOK : 0) | (has_step(s) ? EDGEAUDIO_STEP : 0);
}
