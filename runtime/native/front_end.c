/* PCM frames to log-mel features or cepstra: the front end of edgeaudio in C99.

   Needs no library, allocates nothing and holds no state: the caller gives the tables (window, twiddle factors, mel
   bands, DCT) and the scratch memory, so that no trigonometry happens here. Every sum has one fixed order and the build
   forbids contraction (-ffp-contract=off), so IEEE 754 determines each bit: the same tables and samples give the same
   features at any optimization level on any machine with binary64 arithmetic.

   Frames are computed four at a time where there are so many, value i of frame j at [4 * i + j], so that vector units
   work on neighbours; each frame's arithmetic is the same as alone. */

#include <float.h>
#include <string.h>

#include "edgeaudio.h"

#if FLT_EVAL_METHOD != 0
#error "arithmetic is wider than its type here, which would give other bits"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
/* Compiled twice, the CPU chooses when the library is loaded; neither has fused operations, so the bits are the same. */
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define INDEPENDENT _Pragma("GCC ivdep") /* gcc forgets `restrict` when it inlines */
#else
#define INDEPENDENT
#endif
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif
#define INLINE static inline __attribute__((always_inline))

#define BATCH 4 /* frames computed together */
#define PARTS 4 /* partial sums of a long sum, so that its additions need not wait for each other */

/* Doubles of scratch memory: two complex buffers, conditioned frames, spectrum, mels and cepstra of a batch. */
int32_t edgeaudio_scratch_doubles(const edgeaudio_front_end *f) {
    return BATCH * (4 * (f->half + 1) + f->win_length + f->n_bins + f->n_mels + f->n_dct);
}

INLINE double sum(const double *restrict x, int32_t n) {
    double parts[PARTS] = {0.0};
    int32_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int32_t k = 0; k < PARTS; k++) parts[k] += x[i + k];
    for (; i < n; i++) parts[0] += x[i];
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

INLINE void condition(const edgeaudio_front_end *f, const double *restrict samples, double *restrict frame) {
    const int32_t n = f->win_length;
    const double mean = f->removes_dc ? sum(samples, n) / n : 0.0;
    for (int32_t i = 0; i < n; i++) frame[i] = samples[i] - mean;
    if (f->preemphasis == 0.0) return;
    for (int32_t i = n - 1; i > 0; i--) frame[i] -= f->preemphasis * frame[i - 1];
    frame[0] -= f->first_preemphasis * frame[0];
}

/* Even samples become real parts, odd ones imaginary parts; zeros behind the window. `apart`: from frame to frame.
   Not inlined: with wider vectors gcc makes shuffles of the scattered stores, which take twice as long. */
NOINLINE static void pack(const edgeaudio_front_end *f, const double *restrict x, int32_t apart, double *restrict re,
                 double *restrict im, const int32_t batch) {
    const double *restrict w = f->window;
    const int32_t pairs = f->win_length / 2;
    for (int32_t j = 0; j < batch; j++) {
        const double *restrict y = x + j * apart;
        double *restrict even = re + j, *restrict odd = im + j;
        for (int32_t i = 0; i < pairs; i++) {
            even[i * batch] = y[2 * i] * w[2 * i];
            odd[i * batch] = y[2 * i + 1] * w[2 * i + 1];
        }
    }
    for (int32_t i = pairs * batch; i < f->half * batch; i++) re[i] = im[i] = 0.0;
    if (f->win_length % 2)
        for (int32_t j = 0; j < batch; j++) re[pairs * batch + j] = x[j * apart + 2 * pairs] * w[2 * pairs];
}

/* One value of a radix-4 pass: inputs m values apart, outputs `to` apart (Stockham's order sorts itself). */
#define BUTTERFLY4(from, into, m, to, w)                                                                               \
    do {                                                                                                               \
        const double ar = xr[from], br = xr[from + (m)], cr = xr[from + 2 * (m)], dr = xr[from + 3 * (m)];             \
        const double ai = xi[from], bi = xi[from + (m)], ci = xi[from + 2 * (m)], di = xi[from + 3 * (m)];             \
        const double er = ar + cr, ei = ai + ci, gr = br + dr, gi = bi + di;                                           \
        const double hr = ar - cr, hi = ai - ci, jr = bi - di, ji = dr - br;                                           \
        const double ur = hr + jr, ui = hi + ji, vr = er - gr, vi = ei - gi, tr = hr - jr, ti = hi - ji;               \
        yr[into] = er + gr;                                                                                            \
        yi[into] = ei + gi;                                                                                            \
        yr[into + (to)] = ur * c1[w] - ui * s1[w];                                                                     \
        yi[into + (to)] = ur * s1[w] + ui * c1[w];                                                                     \
        yr[into + 2 * (to)] = vr * c2[w] - vi * s2[w];                                                                 \
        yi[into + 2 * (to)] = vr * s2[w] + vi * c2[w];                                                                 \
        yr[into + 3 * (to)] = tr * c3[w] - ti * s3[w];                                                                 \
        yi[into + 3 * (to)] = tr * s3[w] + ti * c3[w];                                                                 \
    } while (0)

INLINE void pass4(int32_t m, int32_t stride, const double *restrict twiddles, const double *restrict xr,
                         const double *restrict xi, double *restrict yr, double *restrict yi) {
    const double *restrict c1 = twiddles, *restrict c2 = c1 + m, *restrict c3 = c2 + m;
    const double *restrict s1 = c3 + m, *restrict s2 = s1 + m, *restrict s3 = s2 + m;
    if (stride == 1) { /* the first pass of a single frame: neighbours are p, not q */
        INDEPENDENT
        for (int32_t p = 0; p < m; p++) BUTTERFLY4(p, 4 * p, m, 1, p);
        return;
    }
    for (int32_t p = 0; p < m; p++) {
        INDEPENDENT
        for (int32_t q = 0; q < stride; q++) BUTTERFLY4(p * stride + q, 4 * p * stride + q, m * stride, stride, p);
    }
}

static void pass2(int32_t m, int32_t stride, const double *restrict twiddles, const double *restrict xr,
                  const double *restrict xi, double *restrict yr, double *restrict yi) {
    for (int32_t p = 0; p < m; p++) {
        const double c = twiddles[p], s = twiddles[m + p];
        INDEPENDENT
        for (int32_t q = 0; q < stride; q++) {
            const int32_t a = p * stride + q, b = a + m * stride, to = 2 * p * stride + q;
            const double dr = xr[a] - xr[b], di = xi[a] - xi[b];
            yr[to] = xr[a] + xr[b];
            yi[to] = xi[a] + xi[b];
            yr[to + stride] = dr * c - di * s;
            yi[to + stride] = dr * s + di * c;
        }
    }
}

/* Any radix by its definition; for the odd factors of a length that is no power of two. */
static void pass_any(int32_t radix, int32_t m, int32_t stride, const double *restrict twiddles,
                     const double *restrict roots, const double *restrict xr, const double *restrict xi,
                     double *restrict yr, double *restrict yi) {
    for (int32_t p = 0; p < m; p++) {
        for (int32_t j = 0; j < radix; j++) {
            double *restrict ur = yr + (radix * p + j) * stride, *restrict ui = yi + (radix * p + j) * stride;
            INDEPENDENT
            for (int32_t q = 0; q < stride; q++) ur[q] = ui[q] = 0.0;
            for (int32_t k = 0, turn = 0; k < radix; k++, turn = (turn + j) % radix) {
                const double c = roots[turn], s = roots[radix + turn];
                const double *restrict ar = xr + (k * m + p) * stride, *restrict ai = xi + (k * m + p) * stride;
                INDEPENDENT
                for (int32_t q = 0; q < stride; q++) {
                    ur[q] += ar[q] * c - ai[q] * s;
                    ui[q] += ar[q] * s + ai[q] * c;
                }
            }
            if (j == 0) continue;
            const double c = twiddles[(j - 1) * m + p], s = twiddles[(radix + j - 2) * m + p];
            INDEPENDENT
            for (int32_t q = 0; q < stride; q++) {
                const double vr = ur[q], vi = ui[q];
                ur[q] = vr * c - vi * s;
                ui[q] = vr * s + vi * c;
            }
        }
    }
}

/* The complex transforms of a batch; returns which of the two buffers holds the results. */
INLINE int transform(const edgeaudio_front_end *f, double *const re[2], double *const im[2], const int32_t batch) {
    const double *twiddles = f->twiddles, *roots = f->roots;
    int32_t m = f->half, stride = batch;
    int at = 0;
    for (int32_t i = 0; i < f->n_passes; i++, at = !at) {
        const int32_t radix = f->radices[i];
        const double *xr = re[at], *xi = im[at];
        double *yr = re[!at], *yi = im[!at];
        m /= radix;
        if (radix == 4) {
            pass4(m, stride, twiddles, xr, xi, yr, yi);
        } else if (radix == 2) {
            pass2(m, stride, twiddles, xr, xi, yr, yi);
        } else {
            pass_any(radix, m, stride, twiddles, roots, xr, xi, yr, yi);
            roots += 2 * radix;
        }
        twiddles += 2 * (radix - 1) * m;
        stride *= radix;
    }
    return at;
}

/* The spectrum of each real frame from the transform of its packed halves: X[k] = E[k] + W^k O[k]. */
INLINE void unpack(const edgeaudio_front_end *f, double *restrict re, double *restrict im, double *restrict spectrum,
                   const int32_t batch) {
    const double *restrict c = f->unpack, *restrict s = f->unpack + f->n_bins;
    const int32_t n = f->half, present = n + 1 - f->first_bin, n_bins = present < f->n_bins ? present : f->n_bins;
    for (int32_t j = 0; j < batch; j++) { /* the transform is periodic */
        re[n * batch + j] = re[j];
        im[n * batch + j] = im[j];
    }
    for (int32_t i = 0; i < n_bins; i++)
        for (int32_t j = 0; j < batch; j++) {
            const int32_t k = (f->first_bin + i) * batch + j, l = (n - f->first_bin - i) * batch + j;
            const double er = re[k] + re[l], ei = im[k] - im[l], or = im[k] + im[l], oi = re[l] - re[k];
            const double xr = er + (or * c[i] - oi * s[i]), xi = ei + (or * s[i] + oi * c[i]);
            spectrum[i * batch + j] = xr * xr + xi * xi;
        }
    for (int32_t i = n_bins * batch; i < f->n_bins * batch; i++) spectrum[i] = 0.0;
    if (f->magnitude)
        for (int32_t i = 0; i < n_bins * batch; i++) spectrum[i] = __builtin_sqrt(spectrum[i]); /* rounds correctly */
}

INLINE void apply_bands(const edgeaudio_front_end *f, const double *restrict spectrum, double *restrict mel,
                        const int32_t batch) {
    const double *restrict w = f->band_weights;
    for (int32_t i = 0; i < f->n_mels; i++) {
        const double *restrict x = spectrum + f->band_start[i] * batch;
        double parts[PARTS * BATCH] = {0.0};
        for (int32_t g = 0; g < f->band_groups[i]; g++, x += PARTS * batch, w += PARTS)
            for (int32_t k = 0; k < PARTS; k++)
                for (int32_t j = 0; j < batch; j++) parts[k * batch + j] += x[k * batch + j] * w[k];
        for (int32_t j = 0; j < batch; j++)
            mel[i * batch + j] = (parts[j] + parts[batch + j]) + (parts[2 * batch + j] + parts[3 * batch + j]);
    }
}

/* Natural logarithm of a normal positive number, within 1e-12. */
INLINE double logarithm(double x) {
    /* x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1). */
    const uint64_t half_root = UINT64_C(0x3fe6a09e667f3bcd), one = UINT64_C(0x3ff0000000000000);
    uint64_t bits, shifted, exponent_bits;
    double m, e;
    memcpy(&bits, &x, sizeof bits);
    shifted = bits + (one - half_root); /* the exponent rises where the mantissa is above sqrt(2) */
    /* An integer in the low mantissa bits of 2^52 is 2^52 + integer: a conversion that every vector unit has. */
    exponent_bits = (shifted >> 52) | UINT64_C(0x4330000000000000);
    memcpy(&e, &exponent_bits, sizeof e);
    e -= 4503599627370496.0 + 1023.0;
    bits = (shifted & UINT64_C(0x000fffffffffffff)) + half_root;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    const double series = z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13))))));
    return e * 0.6931471805599453 + 2.0 * (s + s * series);
}

INLINE void compress(const edgeaudio_front_end *f, double *restrict mel, const int32_t batch) {
    const int32_t n = f->n_mels * batch;
    const double floor = f->log_floor, factor = f->log_factor, low = f->clamp_min, high = f->clamp_max;
    if (f->has_log) {
        if (f->adds_floor)
            for (int32_t i = 0; i < n; i++) mel[i] += floor;
        else
            for (int32_t i = 0; i < n; i++) mel[i] = mel[i] > floor ? mel[i] : floor;
        for (int32_t i = 0; i < n; i++) mel[i] = logarithm(mel[i]) * factor;
    }
    for (int32_t i = 0; i < n; i++) {
        const double x = mel[i] > low ? mel[i] : low;
        mel[i] = x < high ? x : high;
    }
}

INLINE const double *cosine_transform(const edgeaudio_front_end *f, const double *restrict mel,
                                      double *restrict cepstrum, const int32_t batch) {
    if (!f->n_dct) return mel;
    for (int32_t k = 0; k < f->n_dct * batch; k++) cepstrum[k] = 0.0;
    for (int32_t i = 0; i < f->n_mels; i++)
        for (int32_t k = 0; k < f->n_dct; k++)
            for (int32_t j = 0; j < batch; j++) cepstrum[k * batch + j] += mel[i * batch + j] * f->dct[i * f->n_dct + k];
    return cepstrum;
}

INLINE void compute(const edgeaudio_front_end *f, const double *samples, float *restrict features,
                    const int32_t batch) {
    const int32_t size = (f->half + 1) * batch, n_features = f->n_dct ? f->n_dct : f->n_mels;
    double *const re[2] = {f->scratch, f->scratch + size}, *const im[2] = {re[1] + size, re[1] + 2 * size};
    double *const frames = im[1] + size, *const spectrum = frames + f->win_length * batch;
    double *const mel = spectrum + f->n_bins * batch;
    const int conditions = f->removes_dc || f->preemphasis != 0.0;
    if (conditions)
        for (int32_t j = 0; j < batch; j++) condition(f, samples + j * f->hop_length, frames + j * f->win_length);
    pack(f, conditions ? frames : samples, conditions ? f->win_length : f->hop_length, re[0], im[0], batch);
    const int at = transform(f, re, im, batch);
    unpack(f, re[at], im[at], spectrum, batch);
    apply_bands(f, spectrum, mel, batch);
    compress(f, mel, batch);
    const double *restrict x = cosine_transform(f, mel, mel + f->n_mels * batch, batch);
    for (int32_t j = 0; j < batch; j++)
        for (int32_t i = 0; i < n_features; i++)
            features[j * n_features + i] = (float)((x[i * batch + j] + f->affine_offset) * f->affine_scale);
}

static void compute_one(const edgeaudio_front_end *f, const double *samples, float *features) {
    compute(f, samples, features, 1);
}

FOR_EACH_CPU static void compute_batch(const edgeaudio_front_end *f, const double *samples, float *features) {
    compute(f, samples, features, BATCH);
}

/* Features [n_frames][n_dct or n_mels] of the frames that start at `samples` and every hop_length after it. */
void edgeaudio_features(const edgeaudio_front_end *f, const double *samples, int32_t n_frames, float *features) {
    const int32_t n_features = f->n_dct ? f->n_dct : f->n_mels;
    int32_t i = 0;
    for (; i + BATCH <= n_frames; i += BATCH)
        compute_batch(f, samples + (int64_t)i * f->hop_length, features + (int64_t)i * n_features);
    for (; i < n_frames; i++)
        compute_one(f, samples + (int64_t)i * f->hop_length, features + (int64_t)i * n_features);
}
