/* The integer graph of a network, one step at a time: int8 codes, exact int32 sums, and the requantization rule "fp32"
   (one float32 product, rounded half to even). Integers are exact in any order, so every way of adding gives the same
   codes; what follows them is the same single operations everywhere. */

#include <string.h>

#include "edgeaudio.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define VNNI_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define VNNI_INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define CHOOSES_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

enum { ANY, AVX2, VNNI };

/* clip(rint(x) + zero, low, high), all in float32; adding and taking 1.5 * 2^23 rounds half to even without libm. */
INLINE int8_t rounded_code(float x, float least, float most, float zero) {
    const float round = 12582912.0f;
    x = x > least ? x : least;
    x = x < most ? x : most;
    return (int8_t)(int32_t)(((x + round) - round) + zero);
}

/* Weights lie as [blocks of 16 outputs][groups of 4 inputs][16][4]: sums of one block for one row of inputs. */
INLINE void block_any(const int8_t *restrict x, const int8_t *restrict w, int32_t n_groups, int32_t *restrict sums) {
    for (int32_t g = 0; g < n_groups; g++, x += 4, w += 64)
        for (int32_t o = 0; o < 16; o++)
            sums[o] += x[0] * w[4 * o] + x[1] * w[4 * o + 1] + x[2] * w[4 * o + 2] + x[3] * w[4 * o + 3];
}

static void dot_any(const edgeaudio_op *op, const int8_t *x, const int8_t *y, int32_t *sums, int32_t *others) {
    const int32_t n_blocks = (op->n_out + 15) / 16, n_groups = (op->n_in + 3) / 4;
    for (int32_t b = 0; b < n_blocks; b++) {
        const int8_t *w = op->weights + (int64_t)b * n_groups * 64;
        memcpy(sums + 16 * b, op->bias + 16 * b, 16 * sizeof *sums);
        block_any(x, w, n_groups, sums + 16 * b);
        if (!y) continue;
        memcpy(others + 16 * b, op->bias + 16 * b, 16 * sizeof *sums);
        block_any(y, w, n_groups, others + 16 * b);
    }
}

#ifdef CHOOSES_CPU
INLINE int32_t four_bytes(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, sizeof bytes);
    return bytes;
}

/* Two sums for each output, of the even and the odd pair of each group. */
__attribute__((target("avx2"))) static void dot_avx2(const edgeaudio_op *op, const int8_t *x, const int8_t *y,
                                                     int32_t *sums, int32_t *others) {
    const int32_t n_blocks = (op->n_out + 15) / 16, n_groups = (op->n_in + 3) / 4;
    const int8_t *w = op->weights;
    for (int32_t b = 0; b < n_blocks; b++) {
        __m256i a[4], c[4];
        for (int k = 0; k < 4; k++) a[k] = c[k] = _mm256_setzero_si256();
        for (int32_t g = 0; g < n_groups; g++, w += 64) {
            const __m256i xs = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four_bytes(x + 4 * g))));
            const __m256i ys = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four_bytes(y + 4 * g))));
            for (int k = 0; k < 4; k++) {
                const __m256i ws = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * k)));
                a[k] = _mm256_add_epi32(a[k], _mm256_madd_epi16(xs, ws));
                c[k] = _mm256_add_epi32(c[k], _mm256_madd_epi16(ys, ws));
            }
        }
        int32_t pairs[2][32];
        for (int k = 0; k < 4; k++) {
            _mm256_storeu_si256((__m256i *)(pairs[0] + 8 * k), a[k]);
            _mm256_storeu_si256((__m256i *)(pairs[1] + 8 * k), c[k]);
        }
        for (int32_t o = 0; o < 16; o++) {
            sums[16 * b + o] = op->bias[16 * b + o] + pairs[0][2 * o] + pairs[0][2 * o + 1];
            others[16 * b + o] = op->bias[16 * b + o] + pairs[1][2 * o] + pairs[1][2 * o + 1];
        }
    }
}

#endif

static void requantize_any(const edgeaudio_op *op, const int32_t *restrict sums, int8_t *restrict codes) {
    const float least = op->low - op->zero, most = op->high - op->zero;
    for (int32_t o = 0; o < op->n_out; o++)
        codes[o] = rounded_code((float)sums[o] * op->multiplier[o], least, most, op->zero);
}

/* Addends that share quantization with their sum have ratios of 1, and every step is exact. */
static void add_any(const edgeaudio_op *op) {
    const float least = op->low - op->zero, most = op->high - op->zero;
    for (int32_t i = 0; i < op->n_out; i++) {
        const float a = ((float)op->x[i] - (float)op->x_zero) * op->x_ratio;
        op->out[i] = rounded_code(a + ((float)op->y[i] - (float)op->y_zero) * op->y_ratio, least, most, op->zero);
    }
}

#ifdef CHOOSES_CPU
/* rounded_code() of eight; a maximum with NaN is its second operand, as there. */
__attribute__((target("avx2"))) static void store_avx2(const edgeaudio_op *op, __m256 x, int8_t *codes, int32_t n) {
    const __m256 round = _mm256_set1_ps(12582912.0f), zero = _mm256_set1_ps(op->zero);
    x = _mm256_max_ps(x, _mm256_set1_ps(op->low - op->zero));
    x = _mm256_min_ps(x, _mm256_set1_ps(op->high - op->zero));
    x = _mm256_add_ps(_mm256_sub_ps(_mm256_add_ps(x, round), round), zero);
    const __m256i wide = _mm256_cvttps_epi32(x);
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i bytes = _mm_packs_epi16(pairs, pairs);
    if (n >= 8)
        _mm_storel_epi64((__m128i *)codes, bytes);
    else
        memcpy(codes, &bytes, (size_t)n); /* what lies behind is somebody else's */
}

__attribute__((target("avx2"))) static void requantize_avx2(const edgeaudio_op *op, const int32_t *sums,
                                                            int8_t *codes) {
    for (int32_t o = 0; o < op->n_out; o += 8) {
        const __m256 x = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(sums + o)));
        store_avx2(op, _mm256_mul_ps(x, _mm256_loadu_ps(op->multiplier + o)), codes + o, op->n_out - o);
    }
}

__attribute__((target("avx2"))) static __m256 centred_avx2(const int8_t *codes, int32_t zero, float ratio) {
    const __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)codes)));
    return _mm256_mul_ps(_mm256_sub_ps(x, _mm256_set1_ps((float)zero)), _mm256_set1_ps(ratio));
}

__attribute__((target("avx2"))) static void add_avx2(const edgeaudio_op *op) {
    for (int32_t i = 0; i < op->n_out; i += 8) {
        const __m256 a = centred_avx2(op->x + i, op->x_zero, op->x_ratio);
        const __m256 b = centred_avx2(op->y + i, op->y_zero, op->y_ratio);
        store_avx2(op, _mm256_add_ps(a, b), op->out + i, op->n_out - i);
    }
}

VNNI_INLINE __mmask16 those_there(int32_t n) { return n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff; }

VNNI_INLINE void store_vnni(const edgeaudio_op *op, __m512 x, int8_t *codes, int32_t n) {
    const __m512 round = _mm512_set1_ps(12582912.0f), zero = _mm512_set1_ps(op->zero);
    x = _mm512_max_ps(x, _mm512_set1_ps(op->low - op->zero));
    x = _mm512_min_ps(x, _mm512_set1_ps(op->high - op->zero));
    x = _mm512_add_ps(_mm512_sub_ps(_mm512_add_ps(x, round), round), zero);
    _mm512_mask_cvtepi32_storeu_epi8(codes, those_there(n), _mm512_cvttps_epi32(x));
}

VNNI_INLINE void requantize_vnni(const edgeaudio_op *op, __m512i sums, int32_t at, int8_t *codes) {
    const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(op->multiplier + at));
    store_vnni(op, x, codes + at, op->n_out - at);
}

/* Inputs count from 0 to 255 there; `bias_unsigned` takes the 128 back. Up to four blocks together hide the latency. */
#define DEFINE_BLOCKS_VNNI(name, N)                                                                                    \
    VNNI_TARGET static void name(const edgeaudio_op *op, const int8_t *x, const int8_t *y, int32_t at, int8_t *codes,  \
                                 int8_t *others) {                                                                     \
        const int32_t n = (op->n_in + 3) / 4;                                                                          \
        const int8_t *w = op->weights + (int64_t)at * n * 4;                                                           \
        __m512i a[N], c[N];                                                                                            \
        for (int k = 0; k < N; k++) a[k] = c[k] = _mm512_loadu_si512(op->bias_unsigned + at + 16 * k);                 \
        for (int32_t g = 0; g < n; g++) {                                                                              \
            const __m512i xs = _mm512_set1_epi32(four_bytes(x + 4 * g) ^ (int32_t)0x80808080);                         \
            const __m512i ys = _mm512_set1_epi32(four_bytes(y + 4 * g) ^ (int32_t)0x80808080);                         \
            for (int k = 0; k < N; k++) {                                                                              \
                const __m512i ws = _mm512_loadu_si512(w + 64 * ((int64_t)k * n + g));                                  \
                a[k] = _mm512_dpbusd_epi32(a[k], xs, ws);                                                              \
                c[k] = _mm512_dpbusd_epi32(c[k], ys, ws);                                                              \
            }                                                                                                          \
        }                                                                                                              \
        for (int k = 0; k < N; k++) {                                                                                  \
            requantize_vnni(op, a[k], at + 16 * k, codes);                                                             \
            requantize_vnni(op, c[k], at + 16 * k, others);                                                            \
        }                                                                                                              \
    }
DEFINE_BLOCKS_VNNI(blocks1_vnni, 1)
DEFINE_BLOCKS_VNNI(blocks2_vnni, 2)
DEFINE_BLOCKS_VNNI(blocks3_vnni, 3)
DEFINE_BLOCKS_VNNI(blocks4_vnni, 4)

VNNI_TARGET static void dense_vnni(const edgeaudio_op *op, const int8_t *x, const int8_t *y, int8_t *codes,
                                   int8_t *others) {
    for (int32_t at = 0; at < op->n_out; at += 64) {
        const int32_t left = (op->n_out - at + 15) / 16;
        if (left >= 4)
            blocks4_vnni(op, x, y, at, codes, others);
        else if (left == 3)
            blocks3_vnni(op, x, y, at, codes, others);
        else if (left == 2)
            blocks2_vnni(op, x, y, at, codes, others);
        else
            blocks1_vnni(op, x, y, at, codes, others);
    }
}

VNNI_TARGET static __m512 centred_vnni(const int8_t *codes, int32_t n, int32_t zero, float ratio) {
    const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(those_there(n), codes)));
    return _mm512_mul_ps(_mm512_sub_ps(x, _mm512_set1_ps((float)zero)), _mm512_set1_ps(ratio));
}

VNNI_TARGET static void add_vnni(const edgeaudio_op *op) {
    for (int32_t i = 0; i < op->n_out; i += 16) {
        const int32_t n = op->n_out - i;
        const __m512 a = centred_vnni(op->x + i, n, op->x_zero, op->x_ratio);
        const __m512 b = centred_vnni(op->y + i, n, op->y_zero, op->y_ratio);
        store_vnni(op, _mm512_add_ps(a, b), op->out + i, n);
    }
}
#endif

INLINE void requantize(const edgeaudio_op *op, const int32_t *sums, int8_t *codes, const int level) {
#ifdef CHOOSES_CPU
    if (level != ANY) { /* whoever has AVX-512 has AVX2 */
        requantize_avx2(op, sums, codes);
        return;
    }
#endif
    requantize_any(op, sums, codes);
    (void)level;
}

/* The inputs of the output at (t, f), one behind the other; where they lie so already, their address. */
INLINE const int8_t *window(const edgeaudio_op *op, int32_t t, int32_t f, int8_t *room) {
    const int8_t *x = op->x + (int64_t)t * op->stride_t * op->bins * op->channels;
    if (op->is_contiguous) return x;
    for (int32_t i = 0; i < op->kernel_t; i++, x += (int64_t)op->dilation_t * op->bins * op->channels)
        for (int32_t j = 0; j < op->kernel_f; j++, room += op->channels) {
            const int32_t bin = f * op->stride_f + j * op->dilation_f - op->pad_low;
            if (bin < 0 || bin >= op->bins)
                memset(room, op->x_zero, (size_t)op->channels);
            else
                memcpy(room, x + (int64_t)bin * op->channels, (size_t)op->channels);
        }
    return room - (int64_t)op->kernel_t * op->kernel_f * op->channels;
}

INLINE void dense(const edgeaudio_op *op, const int level) {
    const int32_t n = op->out_t * op->out_f;
    int8_t *out = op->out, *const room = op->room, *const more = room + ((op->n_in + 7) & ~3);
    int32_t *const sums = op->sums, *const others = sums + ((op->n_out + 15) & ~15);
    for (int32_t i = 0; i < n; i += 2, out += 2 * op->n_out) {
        const int has_two = i + 1 < n;
        const int8_t *x = window(op, i / op->out_f, i % op->out_f, room);
        const int8_t *y = has_two ? window(op, (i + 1) / op->out_f, (i + 1) % op->out_f, more) : x;
#ifdef CHOOSES_CPU
        if (level == VNNI) {
            dense_vnni(op, x, y, out, has_two ? out + op->n_out : out);
            continue;
        }
        if (level == AVX2)
            dot_avx2(op, x, y, sums, others);
        else
#endif
            dot_any(op, x, has_two ? y : 0, sums, others);
        requantize(op, sums, out, level);
        if (has_two) requantize(op, others, out + op->n_out, level);
    }
    (void)level;
}

/* One output of a depthwise convolution: for each channel the sum over its window, from bin `bin` of frame `x` on. What
   lies beside the bins counts nothing: it stands for the zero point. */
#define FOR_EACH_TAP(body)                                                                                             \
    do {                                                                                                               \
        const int32_t first = bin < 0 ? (-bin + op->dilation_f - 1) / op->dilation_f : 0;                              \
        const int8_t *row = x + (int64_t)(bin + first * op->dilation_f) * op->channels + c;                            \
        const int64_t to_row = (int64_t)op->dilation_t * op->bins * op->channels;                                      \
        const int64_t to_tap = (int64_t)op->dilation_f * op->channels;                                                 \
        int32_t end = (op->bins - bin + op->dilation_f - 1) / op->dilation_f;                                          \
        end = end < op->kernel_f ? end : op->kernel_f;                                                                 \
        for (int32_t i = 0; i < op->kernel_t; i++, row += to_row) {                                                    \
            const int8_t *xs = row, *ws = op->weights + (int64_t)(i * op->kernel_f + first) * op->channels + c;        \
            for (int32_t j = first; j < end; j++, xs += to_tap, ws += op->channels) {                                  \
                body                                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)
static void taps_any(const edgeaudio_op *op, const int8_t *x, int32_t bin) {
    const int32_t x_zero = op->x_zero;
    int32_t c = 0;
    for (; c + 16 <= op->channels; c += 16) {
        int32_t sums[16];
        memcpy(sums, op->bias + c, sizeof sums);
        FOR_EACH_TAP(for (int32_t k = 0; k < 16; k++) sums[k] += (int16_t)(xs[k] - x_zero) * (int16_t)ws[k];);
        memcpy(op->sums + c, sums, sizeof sums);
    }
    for (; c < op->channels; c++) {
        int32_t sum = op->bias[c];
        FOR_EACH_TAP(sum += (*xs - x_zero) * *ws;);
        op->sums[c] = sum;
    }
}

#ifdef CHOOSES_CPU
/* Reads up to seven codes and weights too many, which only sums that nobody asks for see. */
#define TAP_AVX2                                                                                                       \
    const __m256i a = _mm256_sub_epi32(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)xs)), zero);              \
    const __m256i b = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)ws));                                      \
    sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(a, b));
#define TAP_VNNI                                                                                                       \
    const __m512i a = _mm512_sub_epi32(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, xs)), zero);                   \
    const __m512i b = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, ws));                                           \
    sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(a, b));

__attribute__((target("avx2"))) static void taps_avx2(const edgeaudio_op *op, const int8_t *x, int32_t bin) {
    const __m256i zero = _mm256_set1_epi32(op->x_zero);
    for (int32_t c = 0; c < op->channels; c += 8) {
        __m256i sums = _mm256_loadu_si256((const __m256i *)(op->bias + c));
        FOR_EACH_TAP(TAP_AVX2);
        _mm256_storeu_si256((__m256i *)(op->sums + c), sums);
    }
}

VNNI_TARGET static void taps_vnni(const edgeaudio_op *op, const int8_t *x, int32_t bin) {
    const __m512i zero = _mm512_set1_epi32(op->x_zero);
    for (int32_t c = 0; c < op->channels; c += 16) {
        const __mmask16 there = those_there(op->channels - c);
        __m512i sums = _mm512_loadu_si512(op->bias + c);
        FOR_EACH_TAP(TAP_VNNI);
        _mm512_storeu_si512(op->sums + c, sums);
    }
}
#endif

INLINE void depthwise(const edgeaudio_op *op, const int level) {
    int8_t *out = op->out;
    for (int32_t t = 0; t < op->out_t; t++)
        for (int32_t f = 0; f < op->out_f; f++, out += op->channels) {
            const int8_t *x = op->x + (int64_t)t * op->stride_t * op->bins * op->channels;
            const int32_t bin = f * op->stride_f - op->pad_low;
#ifdef CHOOSES_CPU
            if (level == VNNI)
                taps_vnni(op, x, bin);
            else if (level == AVX2)
                taps_avx2(op, x, bin);
            else
#endif
                taps_any(op, x, bin);
            requantize(op, op->sums, out, level);
        }
    (void)level;
}

/* A depthwise convolution over frames of one bin that lie one behind the other. The zero point is part of the bias. */
static void frames_any(const edgeaudio_op *op) {
    const int32_t n = op->channels;
    int8_t *out = op->out;
    for (int32_t t = 0; t < op->out_t; t++, out += n) {
        const int8_t *x = op->x + (int64_t)t * op->stride_t * n, *w = op->weights;
        memcpy(op->sums, op->bias, (size_t)n * sizeof *op->sums);
        for (int32_t i = 0; i < op->kernel_t; i++, x += n, w += n) {
            int32_t c = 0;
            for (; c + 16 <= n; c += 16)
                for (int32_t k = c; k < c + 16; k++) op->sums[k] += x[k] * w[k];
            for (; c < n; c++) op->sums[c] += x[c] * w[c];
        }
        requantize_any(op, op->sums, out);
    }
}

#ifdef CHOOSES_CPU
/* With vectors two frames are multiplied at once, in pairs of 16 bits. Two outputs share the pairs: what is the first frame
   for one is the frame before the first for the other, so `pairs` holds the weights twice: w0 w1, w2 w3... and
   0 w0, w1 w2... Where there is no second frame its weight is 0, and the first stands for it. */
#define DEFINE_FRAMES(name, TARGET, T, WIDTH, PAIR, DOT, LOAD, REQUANTIZE)                                             \
    TARGET static void name(const edgeaudio_op *op) {                                                                  \
        const int32_t n = op->channels, padded = (n + 15) & ~15, kernel = op->kernel_t, n_pairs = kernel / 2 + 1;      \
        for (int32_t c = 0; c < n; c += WIDTH) {                                                                       \
            const int16_t *even = op->pairs + 2 * c, *odd = even + 2 * (int64_t)n_pairs * padded;                      \
            const T bias = LOAD(op->bias + c);                                                                         \
            int32_t t = 0;                                                                                             \
            if (op->stride_t == 1)                                                                                     \
                for (; t + 2 <= op->out_t; t += 2) {                                                                   \
                    const int8_t *x = op->x + (int64_t)t * n + c;                                                      \
                    T a = bias, b = bias;                                                                              \
                    for (int32_t p = 0; p < n_pairs; p++, x += 2 * n) {                                                \
                        const T xs = PAIR(x, 2 * p < kernel ? x + n : x, n - c);                                       \
                        a = DOT(a, xs, LOAD(even + 2 * (int64_t)p * padded));                                          \
                        b = DOT(b, xs, LOAD(odd + 2 * (int64_t)p * padded));                                           \
                    }                                                                                                  \
                    REQUANTIZE(op, a, c, op->out + (int64_t)t * n);                                                    \
                    REQUANTIZE(op, b, c, op->out + (int64_t)(t + 1) * n);                                              \
                }                                                                                                      \
            for (; t < op->out_t; t++) {                                                                               \
                const int8_t *x = op->x + (int64_t)t * op->stride_t * n + c;                                           \
                T a = bias;                                                                                            \
                for (int32_t p = 0; 2 * p < kernel; p++, x += 2 * n)                                                   \
                    a = DOT(a, PAIR(x, 2 * p + 1 < kernel ? x + n : x, n - c), LOAD(even + 2 * (int64_t)p * padded));  \
                REQUANTIZE(op, a, c, op->out + (int64_t)t * n);                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }

#define AVX2_INLINE static inline __attribute__((always_inline, target("avx2")))
AVX2_INLINE __m256i load_avx2(const void *x) { return _mm256_loadu_si256(x); }

AVX2_INLINE __m256i pair_avx2(const int8_t *x, const int8_t *y, int32_t n) {
    const __m128i a = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)x));
    const __m128i b = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)y));
    (void)n; /* reads up to seven codes too many, which only sums that nobody asks for see */
    return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
}

AVX2_INLINE __m256i dot_pairs_avx2(__m256i sums, __m256i x, __m256i w) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(x, w));
}

AVX2_INLINE void requantize_eight(const edgeaudio_op *op, __m256i sums, int32_t at, int8_t *codes) {
    const __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(op->multiplier + at));
    store_avx2(op, x, codes + at, op->n_out - at);
}

VNNI_INLINE __m512i load_vnni(const void *x) { return _mm512_loadu_si512(x); }

VNNI_INLINE __m512i pair_vnni(const int8_t *x, const int8_t *y, int32_t n) {
    const __mmask16 there = those_there(n);
    const __m512i a = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, x));
    const __m512i b = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, y));
    return _mm512_mask_mov_epi16(a, 0xaaaaaaaa, _mm512_slli_epi32(b, 16));
}
DEFINE_FRAMES(frames_avx2, __attribute__((target("avx2"))), __m256i, 8, pair_avx2, dot_pairs_avx2, load_avx2,
              requantize_eight)
DEFINE_FRAMES(frames_vnni, VNNI_TARGET, __m512i, 16, pair_vnni, _mm512_dpwssd_epi32, load_vnni, requantize_vnni)
#endif

INLINE void frames(const edgeaudio_op *op, const int level) {
#ifdef CHOOSES_CPU
    if (level == VNNI) {
        frames_vnni(op);
        return;
    }
    if (level == AVX2) {
        frames_avx2(op);
        return;
    }
#endif
    frames_any(op);
    (void)level;
}

INLINE void add(const edgeaudio_op *op, const int level) {
#ifdef CHOOSES_CPU
    if (level == VNNI) {
        add_vnni(op);
        return;
    }
    if (level == AVX2) {
        add_avx2(op);
        return;
    }
#endif
    add_any(op);
    (void)level;
}

INLINE void clamp(const edgeaudio_op *op) {
    const int32_t low = (int32_t)op->low, high = (int32_t)op->high;
    for (int32_t i = 0; i < op->n_out; i++) {
        const int32_t x = op->x[i];
        op->out[i] = (int8_t)(x < low ? low : x > high ? high : x);
    }
}

INLINE void run(const edgeaudio_network *n, const int level) {
    for (const edgeaudio_op *op = n->ops; op < n->ops + n->n_ops; op++) switch (op->kind) {
            case EDGEAUDIO_DENSE: dense(op, level); break;
            case EDGEAUDIO_DEPTHWISE: depthwise(op, level); break;
            case EDGEAUDIO_FRAMES: frames(op, level); break;
            case EDGEAUDIO_ADD: add(op, level); break;
            case EDGEAUDIO_CLAMP: clamp(op); break;
            default: memcpy(op->out, op->x, (size_t)op->n_out);
        }
    for (int32_t i = 0; i < n->n_carried; i++) /* a state and what becomes of it may overlap */
        memmove(n->carried[i].to, n->carried[i].from, (size_t)n->carried[i].n_bytes);
}

static void run_any(const edgeaudio_network *n) { run(n, ANY); }

#ifdef CHOOSES_CPU
__attribute__((target("avx2"))) static void run_avx2(const edgeaudio_network *n) { run(n, AVX2); }

VNNI_TARGET static void run_vnni(const edgeaudio_network *n) { run(n, VNNI); }
#endif

int32_t edgeaudio_level(void) {
#ifdef CHOOSES_CPU
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return VNNI;
    if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
    return ANY;
}

void edgeaudio_run(const edgeaudio_network *n) {
#ifdef CHOOSES_CPU
    if (n->level >= VNNI) {
        run_vnni(n);
        return;
    }
    if (n->level == AVX2) {
        run_avx2(n);
        return;
    }
#endif
    run_any(n);
}
