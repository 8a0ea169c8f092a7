/* PCM frames to log-mel features or cepstra: the front end of edgeaudio in C99.

   Needs no library, allocates nothing and holds no state: the caller gives the tables (window, twiddle factors, mel
   bands, DCT) and the scratch memory, so that no trigonometry happens here. Every sum has one fixed order and the build
   forbids contraction (-ffp-contract=off), so IEEE 754 determines each bit: the same tables and samples give the same
   features at any optimization level on any machine with binary64 arithmetic.

   Frames are computed four at a time where there are so many, value i of frame j at [4 * i + j], so that a vector holds
   the same value of four frames; each frame's arithmetic is the same as alone. */

#include <float.h>
#include <string.h>

#include "edgeaudio.h"

#if FLT_EVAL_METHOD != 0
#error "arithmetic is wider than its type here, which would give other bits"
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define INDEPENDENT _Pragma("GCC ivdep") /* gcc forgets `restrict` when it inlines */
#define ROLLED _Pragma("GCC unroll 1")   /* four times the code would be no faster */
#else
#define INDEPENDENT
#define ROLLED
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define CHOOSES_CPU /* compiled for three of them; none fuses operations, so the bits are the same */
#endif
#define AT(T, x, i) (*(T *)((x) + (i)))
#define INLINE static inline __attribute__((always_inline))

#define BATCH 4 /* frames computed together */
/* One value of the four frames, and two values one after the other: single operations where the CPU has such vectors. */
typedef double v4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t v8_index __attribute__((vector_size(64)));
typedef double v8 __attribute__((vector_size(64), aligned(8), may_alias));
#define PARTS 4 /* partial sums of a long sum, so that its additions need not wait for each other */

/* Doubles of scratch memory: two complex buffers, conditioned frames, spectrum, mels and cepstra of a batch. The spectrum
   has all bins, and what bands read beyond. */
int32_t edgeaudio_scratch_doubles(const edgeaudio_front_end *f) {
    return BATCH * (4 * (f->half + 2) + f->win_length + (f->first_bin + f->n_bins + f->half + 1) + f->n_mels + f->n_dct);
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

/* Even samples become real parts, odd ones imaginary parts; zeros behind the window. */
INLINE void pack(const edgeaudio_front_end *f, const double *restrict x, double *restrict re, double *restrict im) {
    const double *restrict w = f->window;
    const int32_t pairs = f->win_length / 2;
    for (int32_t i = 0; i < pairs; i++) {
        re[i] = x[2 * i] * w[2 * i];
        im[i] = x[2 * i + 1] * w[2 * i + 1];
    }
    for (int32_t i = pairs; i < f->half; i++) re[i] = im[i] = 0.0;
    if (f->win_length % 2) re[pairs] = x[2 * pairs] * w[2 * pairs];
}

/* The same for four frames, `apart` samples from each other. */
INLINE void pack_batch(const edgeaudio_front_end *f, const double *restrict x, int32_t apart, double *restrict re,
                       double *restrict im) {
    const double *restrict y = x + apart, *restrict z = y + apart, *restrict u = z + apart, *restrict w = f->window;
    const int32_t pairs = f->win_length / 2;
    for (int32_t i = 0; i < pairs; i++) {
        const int32_t k = 2 * i;
        AT(v4, re, BATCH * i) = (v4){x[k], y[k], z[k], u[k]} * w[k];
        AT(v4, im, BATCH * i) = (v4){x[k + 1], y[k + 1], z[k + 1], u[k + 1]} * w[k + 1];
    }
    for (int32_t i = pairs * BATCH; i < f->half * BATCH; i++) re[i] = im[i] = 0.0;
    if (f->win_length % 2) {
        const int32_t k = 2 * pairs;
        AT(v4, re, BATCH * pairs) = (v4){x[k], y[k], z[k], u[k]} * w[k];
    }
}

/* A radix-4 pass at one place: inputs m values apart, outputs `to` apart (Stockham's order sorts itself). `T` is a value
   or a vector of neighbours; ROTATE is what the last pass, where all twiddles are 1, does without. */
#define BUTTERFLY4(T, from, into, m, to, w, ROTATE)                                                                    \
    do {                                                                                                               \
        const T ar = AT(const T, xr, from), br = AT(const T, xr, from + (m)), cr = AT(const T, xr, from + 2 * (m));    \
        const T ai = AT(const T, xi, from), bi = AT(const T, xi, from + (m)), ci = AT(const T, xi, from + 2 * (m));    \
        const T dr = AT(const T, xr, from + 3 * (m)), di = AT(const T, xi, from + 3 * (m));                            \
        const T er = ar + cr, ei = ai + ci, gr = br + dr, gi = bi + di;                                                \
        const T hr = ar - cr, hi = ai - ci, jr = bi - di, ji = dr - br;                                                \
        const T ur = hr + jr, ui = hi + ji, vr = er - gr, vi = ei - gi, tr = hr - jr, ti = hi - ji;                    \
        AT(T, yr, into) = er + gr;                                                                                     \
        AT(T, yi, into) = ei + gi;                                                                                     \
        ROTATE(T, into + (to), ur, ui, c1[w], s1[w]);                                                                  \
        ROTATE(T, into + 2 * (to), vr, vi, c2[w], s2[w]);                                                              \
        ROTATE(T, into + 3 * (to), tr, ti, c3[w], s3[w]);                                                              \
    } while (0)
#define TURNED(T, into, real, imag, c, s)                                                                              \
    AT(T, yr, into) = real * (c) - imag * (s), AT(T, yi, into) = real * (s) + imag * (c)
#define AS_IT_IS(T, into, real, imag, c, s) AT(T, yr, into) = real, AT(T, yi, into) = imag

#define DEFINE_PASS4(name, T)                                                                                          \
    INLINE void name(int32_t m, int32_t stride, const double *restrict twiddles, const double *restrict xr,            \
                     const double *restrict xi, double *restrict yr, double *restrict yi) {                            \
        const int32_t n = (int32_t)(sizeof(T) / sizeof(double));                                                       \
        const double *restrict c1 = twiddles, *restrict c2 = c1 + m, *restrict c3 = c2 + m;                            \
        const double *restrict s1 = c3 + m, *restrict s2 = s1 + m, *restrict s3 = s2 + m;                              \
        if (m == 1) {                                                                                                  \
            INDEPENDENT                                                                                                \
            for (int32_t q = 0; q < stride; q += n) BUTTERFLY4(T, q, q, stride, stride, 0, AS_IT_IS);                  \
            return;                                                                                                    \
        }                                                                                                              \
        for (int32_t p = 0; p < m; p++) {                                                                              \
            INDEPENDENT                                                                                                \
            for (int32_t q = 0; q < stride; q += n)                                                                    \
                BUTTERFLY4(T, p * stride + q, 4 * p * stride + q, m * stride, stride, p, TURNED);                      \
        }                                                                                                              \
    }
DEFINE_PASS4(pass4_alone, double)
DEFINE_PASS4(pass4_narrow, v4)
DEFINE_PASS4(pass4_wide, v8)

INLINE void pass4(int32_t m, int32_t stride, const double *restrict twiddles, const double *restrict xr,
                  const double *restrict xi, double *restrict yr, double *restrict yi, const int32_t batch,
                  const int is_wide) {
    if (batch == BATCH && is_wide && stride % 8 == 0) {
        pass4_wide(m, stride, twiddles, xr, xi, yr, yi);
    } else if (batch == BATCH) {
        pass4_narrow(m, stride, twiddles, xr, xi, yr, yi);
    } else if (stride > 1) {
        pass4_alone(m, stride, twiddles, xr, xi, yr, yi);
    } else { /* the first pass of a single frame: neighbours are p, not q */
        const double *restrict c1 = twiddles, *restrict c2 = c1 + m, *restrict c3 = c2 + m;
        const double *restrict s1 = c3 + m, *restrict s2 = s1 + m, *restrict s3 = s2 + m;
        INDEPENDENT
        for (int32_t p = 0; p < m; p++) BUTTERFLY4(double, p, 4 * p, m, 1, p, TURNED);
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
INLINE int transform(const edgeaudio_front_end *f, double *const re[2], double *const im[2], const int32_t batch,
                     const int is_wide) {
    const double *twiddles = f->twiddles, *roots = f->roots;
    int32_t m = f->half, stride = batch;
    int at = 0;
    for (int32_t i = 0; i < f->n_passes; i++, at = !at) {
        const int32_t radix = f->radices[i];
        const double *xr = re[at], *xi = im[at];
        double *yr = re[!at], *yi = im[!at];
        m /= radix;
        if (radix == 4) {
            pass4(m, stride, twiddles, xr, xi, yr, yi, batch, is_wide);
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

/* The power of bins first to last of real frames from the transform of their packed halves: X[k] = E[k] + W^k O[k]. */
#define UNPACK(T, k, l, mirror, i, cosine, sine)                                                                       \
    do {                                                                                                               \
        const T kr = AT(const T, re, k), ki = AT(const T, im, k), lr = mirror(AT(const T, re, l));                     \
        const T li = mirror(AT(const T, im, l));                                                                       \
        const T er = kr + lr, ei = ki - li, or = ki + li, oi = lr - kr;                                                \
        const T xr = er + (or * (cosine) - oi * (sine)), xi = ei + (or * (sine) + oi * (cosine));                      \
        AT(T, spectrum, i) = xr * xr + xi * xi;                                                                        \
    } while (0)
#define AS_READ(x) (x)
#if defined(__clang__)
#define HALVES_SWAPPED(x) __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3)
#else
#define HALVES_SWAPPED(x) __builtin_shuffle(x, (v8_index){4, 5, 6, 7, 0, 1, 2, 3})
#endif
#define TWICE4(x, y) ((v8){x, x, x, x, y, y, y, y})

INLINE void unpack(const edgeaudio_front_end *f, double *restrict re, double *restrict im, double *restrict spectrum,
                   const int32_t batch, const int is_wide) {
    const double *restrict c = f->unpack + f->first_bin, *restrict s = c + f->half + 1;
    const int32_t n = f->half, first = f->first_bin, present = n + 1 - first;
    const int32_t n_bins = present < f->n_bins ? present : f->n_bins;
    int32_t i = 0;
    for (int32_t j = 0; j < batch; j++) { /* the transform is periodic */
        re[n * batch + j] = re[j];
        im[n * batch + j] = im[j];
    }
    if (batch == BATCH && is_wide)
        for (; i + 2 <= n_bins; i += 2)
            UNPACK(v8, (first + i) * BATCH, (n - first - i - 1) * BATCH, HALVES_SWAPPED, i * BATCH,
                   TWICE4(c[i], c[i + 1]), TWICE4(s[i], s[i + 1]));
    if (batch == BATCH)
        for (; i < n_bins; i++)
            UNPACK(v4, (first + i) * BATCH, (n - first - i) * BATCH, AS_READ, i * BATCH, c[i], s[i]);
    for (; i < n_bins; i++) UNPACK(double, first + i, n - first - i, AS_READ, i, c[i], s[i]);
}

/* What follows the unpacking: nothing beyond the last bin, and magnitudes. */
INLINE void finish_spectrum(const edgeaudio_front_end *f, double *restrict spectrum, const int32_t batch) {
    const int32_t present = f->half + 1 - f->first_bin, n_bins = present < f->n_bins ? present : f->n_bins;
    for (int32_t i = n_bins * batch; i < f->n_bins * batch; i++) spectrum[i] = 0.0;
    if (f->magnitude)
        for (int32_t i = 0; i < n_bins * batch; i++) spectrum[i] = __builtin_sqrt(spectrum[i]); /* rounds correctly */
}

#ifdef CHOOSES_CPU
/* Four frames of n_fft 512 with AVX-512: the operations of pack_batch(), of four passes of radix 4 and of unpack() on each
   value, two passes at a time in registers, two columns and then two rows in a vector. Less than half of the memory
   traffic. Of a pair of mirrored bins one is had from the other: the tables are mirror images to the bit. */
#include <immintrin.h>
#define WIDE_TARGET __attribute__((target("avx512f")))
#define WIDE_INLINE static inline __attribute__((always_inline, target("avx512f")))
#define WIDE_HALF 256 /* 16 rows of 16 columns */

typedef struct {
    v8 re, im;
} wide;

/* `low` four times, then `high`. */
WIDE_INLINE v8 both(const double *low, const double *high) {
    return (v8)_mm512_mask_broadcastsd_pd(_mm512_set1_pd(*low), 0xf0, _mm_load_sd(high));
}

WIDE_INLINE wide turned(v8 re, v8 im, v8 c, v8 s) {
    return (wide){re * c - im * s, re * s + im * c};
}

/* BUTTERFLY4 without its rotations: outputs in order, of inputs a to d. */
WIDE_INLINE void butterfly(wide a, wide b, wide c, wide d, wide y[4]) {
    const v8 er = a.re + c.re, ei = a.im + c.im, gr = b.re + d.re, gi = b.im + d.im;
    const v8 hr = a.re - c.re, hi = a.im - c.im, jr = b.im - d.im, ji = d.re - b.re;
    y[0] = (wide){er + gr, ei + gi};
    y[1] = (wide){hr + jr, hi + ji};
    y[2] = (wide){er - gr, ei - gi};
    y[3] = (wide){hr - jr, hi - ji};
}

/* Values n and n + 1 of the packed frames. */
WIDE_INLINE wide packed(const edgeaudio_front_end *f, const double *x, int32_t apart, int32_t n) {
    double padded[16];
    const double *w = f->window + 2 * n;
    x += 2 * n;
    if (2 * n >= f->win_length) return (wide){{0.0}, {0.0}};
    if (2 * n + 4 > f->win_length) { /* the window ends in here */
        for (int32_t i = 0; i < 16; i++)
            padded[i] = 2 * n + i % 4 < f->win_length ? x[i / 4 * (int64_t)apart + i % 4] * w[i % 4] : 0.0;
        x = padded;
        apart = 4;
    }
    const int64_t to = apart;
    __m512d a = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(x)), _mm256_loadu_pd(x + to), 1);
    __m512d b = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(x + 2 * to)), _mm256_loadu_pd(x + 3 * to), 1);
    if (x != padded) {
        const __m512d weights = _mm512_broadcast_f64x4(_mm256_loadu_pd(w));
        a = _mm512_mul_pd(a, weights);
        b = _mm512_mul_pd(b, weights);
    }
    return (wide){(v8)_mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 4, 8, 12, 2, 6, 10, 14), b),
                  (v8)_mm512_permutex2var_pd(a, _mm512_setr_epi64(1, 5, 9, 13, 3, 7, 11, 15), b)};
}

/* The first two passes: the 16 rows of two columns at a time, into pairs of rows (j, j + 4) and (j + 12, j + 8). */
WIDE_INLINE void wide_columns(const edgeaudio_front_end *f, const double *x, int32_t apart, wide rows[16][8]) {
    const double *first = f->twiddles, *second = first + 6 * 64;
    for (int32_t n = 0; n < 16; n += 2) {
        wide between[4][4], y[4];
        ROLLED
        for (int32_t a = 0; a < 4; a++) {
            const int32_t p = 16 * a + n;
            butterfly(packed(f, x, apart, p), packed(f, x, apart, p + 64), packed(f, x, apart, p + 128),
                      packed(f, x, apart, p + 192), y);
            between[0][a] = y[0];
            for (int32_t j = 1; j < 4; j++) {
                const double *c = first + 64 * (j - 1) + p, *s = c + 3 * 64;
                between[j][a] = turned(y[j].re, y[j].im, both(c, c + 1), both(s, s + 1));
            }
        }
        v8 c[4], s[4];
        for (int32_t j = 1; j < 4; j++) {
            const double *at = second + 16 * (j - 1) + n;
            c[j] = both(at, at + 1);
            s[j] = both(at + 3 * 16, at + 3 * 16 + 1);
        }
        ROLLED
        for (int32_t j = 0; j < 4; j++) {
            const wide *z = between[j];
            butterfly(z[0], z[1], z[2], z[3], y);
            for (int32_t k = 1; k < 4; k++) y[k] = turned(y[k].re, y[k].im, c[k], s[k]);
#define SPLIT(to, low, high)                                                                                           \
    rows[n][to].re = (v8)_mm512_shuffle_f64x2((__m512d)low.re, (__m512d)high.re, 0x44);                                \
    rows[n][to].im = (v8)_mm512_shuffle_f64x2((__m512d)low.im, (__m512d)high.im, 0x44);                                \
    rows[n + 1][to].re = (v8)_mm512_shuffle_f64x2((__m512d)low.re, (__m512d)high.re, 0xee);                            \
    rows[n + 1][to].im = (v8)_mm512_shuffle_f64x2((__m512d)low.im, (__m512d)high.im, 0xee)
            SPLIT(2 * j, y[0], y[1]);
            SPLIT(2 * j + 1, y[3], y[2]);
        }
    }
}

/* The last two passes, of one pair of rows: bins r, r + 16, r + 32... of both. */
WIDE_INLINE void wide_row(const edgeaudio_front_end *f, wide rows[16][8], int32_t pair, wide bins[16]) {
    const double *third = f->twiddles + 6 * (64 + 16);
    wide between[4][4], y[4];
    ROLLED
    for (int32_t p = 0; p < 4; p++) {
        butterfly(rows[p][pair], rows[p + 4][pair], rows[p + 8][pair], rows[p + 12][pair], y);
        between[0][p] = y[0];
        for (int32_t j = 1; j < 4; j++) {
            const double *c = third + 4 * (j - 1) + p;
            between[j][p] = turned(y[j].re, y[j].im, (v8)_mm512_set1_pd(c[0]), (v8)_mm512_set1_pd(c[12]));
        }
    }
    ROLLED
    for (int32_t j = 0; j < 4; j++) {
        const wide *z = between[j];
        butterfly(z[0], z[1], z[2], z[3], y);
        for (int32_t k = 0; k < 4; k++) bins[j + 4 * k] = y[k];
    }
}

/* UNPACK of bins k and l, which lie in `a` in this order, and of their mirror images, which lie in `b`. */
WIDE_INLINE void wide_unpack(const edgeaudio_front_end *f, wide a, wide b, int32_t k, int32_t l, double *spectrum) {
    const double *cosines = f->unpack, *sines = cosines + WIDE_HALF + 1;
    const v8 c = both(cosines + k, cosines + l), s = both(sines + k, sines + l);
    const v8 er = a.re + b.re, ei = a.im - b.im, or = a.im + b.im, oi = b.re - a.re;
    const v8 wr = or * c - oi * s, wi = or * s + oi * c;
    const v8 xr = er + wr, xi = ei + wi, yr = er - wr, yi = wi - ei;
    const __m512d x = (__m512d)(xr * xr + xi * xi), y = (__m512d)(yr * yr + yi * yi);
    _mm256_storeu_pd(spectrum + BATCH * l, _mm512_extractf64x4_pd(x, 1));
    _mm256_storeu_pd(spectrum + BATCH * (WIDE_HALF - l), _mm512_extractf64x4_pd(y, 1));
    _mm256_storeu_pd(spectrum + BATCH * k, _mm512_castpd512_pd256(x)); /* the last word where both are one */
    _mm256_storeu_pd(spectrum + BATCH * (WIDE_HALF - k), _mm512_castpd512_pd256(y));
}

/* The power [bins 0 to 256][BATCH] of four frames; `room` holds rows[16][8]. */
WIDE_TARGET static void wide_spectrum(const edgeaudio_front_end *f, const double *x, int32_t apart, double *room,
                                      double *spectrum) {
    static const int8_t pairs[3][4] = {{2, 7, 1, 5}, {6, 3, 3, 7}, {4, 5, 2, 6}}; /* a pair, its image, its two rows */
    wide (*rows)[8] = (wide (*)[8])room;
    wide a[16], b[16];
    wide_columns(f, x, apart, rows);
    ROLLED
    for (int32_t i = 0; i < 3; i++) {
        wide_row(f, rows, pairs[i][0], a);
        wide_row(f, rows, pairs[i][1], b);
        for (int32_t k = 0; k < 16; k++)
            wide_unpack(f, a[k], b[15 - k], pairs[i][2] + 16 * k, pairs[i][3] + 16 * k, spectrum);
    }
    wide_row(f, rows, 0, a); /* rows 0 and 4 */
    wide_row(f, rows, 1, b); /* rows 12 and 8 */
    for (int32_t k = 0; k < 16; k++) { /* rows 4 and 8, whose images are 12 and 8 */
        const wide z = {(v8)_mm512_shuffle_f64x2((__m512d)a[k].re, (__m512d)b[k].re, 0xee),
                        (v8)_mm512_shuffle_f64x2((__m512d)a[k].im, (__m512d)b[k].im, 0xee)};
        wide_unpack(f, z, b[15 - k], 4 + 16 * k, 8 + 16 * k, spectrum);
    }
    for (int32_t k = 0; k <= 8; k++) /* row 0, its own image; the upper half of the vector is of no use */
        wide_unpack(f, a[k], a[(16 - k) % 16], 16 * k, 16 * k, spectrum);
}
#endif

#define DEFINE_APPLY_BANDS(name, T, BATCH_OF_T)                                                                        \
    INLINE void name(const edgeaudio_front_end *f, const double *restrict spectrum, double *restrict mel) {            \
        const double *restrict w = f->band_weights;                                                                    \
        for (int32_t i = 0; i < f->n_mels; i++) {                                                                      \
            const double *restrict x = spectrum + f->band_start[i] * (BATCH_OF_T);                                     \
            T a = {0}, b = {0}, c = {0}, d = {0};                                                                      \
            for (int32_t g = 0; g < f->band_groups[i]; g++, x += PARTS * (BATCH_OF_T), w += PARTS) {                   \
                a += AT(const T, x, 0) * w[0];                                                                         \
                b += AT(const T, x, (BATCH_OF_T)) * w[1];                                                              \
                c += AT(const T, x, 2 * (BATCH_OF_T)) * w[2];                                                          \
                d += AT(const T, x, 3 * (BATCH_OF_T)) * w[3];                                                          \
            }                                                                                                          \
            AT(T, mel, i * (BATCH_OF_T)) = (a + b) + (c + d);                                                          \
        }                                                                                                              \
    }
DEFINE_APPLY_BANDS(apply_bands, double, 1)
DEFINE_APPLY_BANDS(apply_bands_batch, v4, BATCH)

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
                    const int32_t batch, const int is_wide) {
    const int32_t size = (f->half + 2) * batch, n_features = f->n_dct ? f->n_dct : f->n_mels;
    double *const re[2] = {f->scratch, f->scratch + size}, *const im[2] = {re[1] + size, re[1] + 2 * size};
    double *const frames = im[1] + size, *const mel = frames + f->win_length * batch;
    double *const bins = mel + (f->n_mels + f->n_dct) * batch, *const spectrum = bins + f->first_bin * batch;
    const int conditions = f->removes_dc || f->preemphasis != 0.0;
    if (conditions)
        for (int32_t j = 0; j < batch; j++) condition(f, samples + j * f->hop_length, frames + j * f->win_length);
    const double *const x = conditions ? frames : samples;
    const int32_t apart = conditions ? f->win_length : f->hop_length;
#ifdef CHOOSES_CPU
    if (is_wide && f->half == WIDE_HALF) {
        wide_spectrum(f, x, apart, f->scratch, bins);
    } else
#endif
    {
        if (batch == BATCH)
            pack_batch(f, x, apart, re[0], im[0]);
        else
            pack(f, x, re[0], im[0]);
        const int at = transform(f, re, im, batch, is_wide);
        unpack(f, re[at], im[at], spectrum, batch, is_wide);
    }
    finish_spectrum(f, spectrum, batch);
    if (batch == BATCH)
        apply_bands_batch(f, spectrum, mel);
    else
        apply_bands(f, spectrum, mel);
    compress(f, mel, batch);
    const double *restrict values = cosine_transform(f, mel, mel + f->n_mels * batch, batch);
    const double offset = f->affine_offset, scale = f->affine_scale;
    for (int32_t i = 0; i < n_features; i++)
        for (int32_t j = 0; j < batch; j++)
            features[j * n_features + i] = (float)((values[i * batch + j] + offset) * scale);
}

static void compute_one(const edgeaudio_front_end *f, const double *samples, float *features) {
    compute(f, samples, features, 1, 0);
}

static void compute_anywhere(const edgeaudio_front_end *f, const double *samples, float *features) {
    compute(f, samples, features, BATCH, 0);
}

#ifdef CHOOSES_CPU
__attribute__((target("avx2"))) static void compute_avx2(const edgeaudio_front_end *f, const double *samples,
                                                         float *features) {
    compute(f, samples, features, BATCH, 0);
}

__attribute__((target("avx512f"))) static void compute_avx512(const edgeaudio_front_end *f, const double *samples,
                                                              float *features) {
    compute(f, samples, features, BATCH, 1);
}

static void compute_batch(const edgeaudio_front_end *f, const double *samples, float *features) {
    if (__builtin_cpu_supports("avx512f"))
        compute_avx512(f, samples, features);
    else if (__builtin_cpu_supports("avx2"))
        compute_avx2(f, samples, features);
    else
        compute_anywhere(f, samples, features);
}
#else
#define compute_batch compute_anywhere
#endif

/* Features [n_frames][n_dct or n_mels] of the frames that start at `samples` and every hop_length after it. */
void edgeaudio_features(const edgeaudio_front_end *f, const double *samples, int32_t n_frames, float *features) {
    const int32_t n_features = f->n_dct ? f->n_dct : f->n_mels;
    int32_t i = 0;
    for (; i + BATCH <= n_frames; i += BATCH)
        compute_batch(f, samples + (int64_t)i * f->hop_length, features + (int64_t)i * n_features);
    for (; i < n_frames; i++)
        compute_one(f, samples + (int64_t)i * f->hop_length, features + (int64_t)i * n_features);
}
