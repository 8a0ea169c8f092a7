/* PCM frames to the features of TensorFlow Lite Micro's fixed-point front end, in C99.

   Needs no library and allocates nothing; the caller gives the tables and keeps the noise estimates. Integers but for
   the samples, which are brought to int16, and the last factor, so all compilers and machines give the same bits.
   edgeaudio_runtime/microfrontend.py says what each step is. */

#include <stdint.h>

#define N_FFT 512
#define HALF 256

typedef struct {
    int32_t win_length, hop_length, n_mels, has_gain;
    int32_t first_bin, end_bin, smoothing[2], remaining;
    float output_scale;
    const int16_t *window;   /* [win_length] */
    const int16_t *twiddles; /* cosines [256], sines [256] */
    const int16_t *split;    /* cosines [128], sines [128] */
    const int16_t *weights;  /* [256], what a bin gives to the triangle that rises there */
    const int16_t *rest;     /* [256], what it gives to the one that falls */
    const int16_t *channels; /* [256], the one that rises, 0 to n_mels; the first and the last give no feature */
    const int16_t *gain;     /* [3, 33]: start, slope, bend by the bit length of the noise */
    const int32_t *log;      /* [129] */
    uint32_t *noise;         /* [n_mels], kept from call to call */
    uint64_t *scratch;       /* [n_mels + 2] */
} edgeaudio_micro;

static int bit_length(uint64_t x) {
    int n = 0;
    for (; x; x >>= 1) n++;
    return n;
}

static int16_t scaled(int32_t x, int32_t factor) { return (int16_t)((x * factor + (1 << 14)) >> 15); }

/* z *= (cosine, sine) / 2^15 */
static void turn(int16_t *re, int16_t *im, int32_t cosine, int32_t sine) {
    int32_t r = *re, i = *im;
    *re = (int16_t)((r * cosine - i * sine + (1 << 14)) >> 15);
    *im = (int16_t)((r * sine + i * cosine + (1 << 14)) >> 15);
}

/* One pass of radix 4: transforms of length m become ones of 4 m. */
static void pass(const edgeaudio_micro *f, int16_t *re, int16_t *im, int m) {
    for (int first = 0; first < HALF; first += 4 * m) {
        for (int k = 0; k < m; k++) {
            int16_t r[4], i[4];
            for (int j = 0; j < 4; j++) {
                int at = first + k + j * m, angle = j * k * (HALF / 4 / m);
                r[j] = scaled(re[at], 32767 / 4);
                i[j] = scaled(im[at], 32767 / 4);
                if (j && m > 1) turn(r + j, i + j, f->twiddles[angle], f->twiddles[HALF + angle]);
            }
            int outer_r = r[0] + r[2], outer_i = i[0] + i[2], inner_r = r[0] - r[2], inner_i = i[0] - i[2];
            int sum_r = r[1] + r[3], sum_i = i[1] + i[3], less_r = r[1] - r[3], less_i = i[1] - i[3];
            int at = first + k;
            re[at] = (int16_t)(outer_r + sum_r), im[at] = (int16_t)(outer_i + sum_i);
            re[at + m] = (int16_t)(inner_r + less_i), im[at + m] = (int16_t)(inner_i - less_r);
            re[at + 2 * m] = (int16_t)(outer_r - sum_r), im[at + 2 * m] = (int16_t)(outer_i - sum_i);
            re[at + 3 * m] = (int16_t)(inner_r - less_i), im[at + 3 * m] = (int16_t)(inner_i + less_r);
        }
    }
}

/* Squared magnitudes of bins 1 to 255 of the real FFT of 512 samples, even ones in re, odd ones in im, base 4 digits of
   their places reversed. */
static void energies(const edgeaudio_micro *f, int16_t *re, int16_t *im, uint32_t *energy) {
    for (int m = 1; m < HALF; m *= 4) pass(f, re, im, m);
    for (int k = 1; k <= HALF / 2; k++) {
        int back = HALF - k;
        int a = scaled(re[k], 32767 / 2), b = scaled(im[k], 32767 / 2);
        int c = scaled(re[back], 32767 / 2), d = scaled(-im[back], 32767 / 2);
        int even_r = a + c, even_i = b + d;
        int16_t odd_r = (int16_t)(a - c), odd_i = (int16_t)(b - d);
        turn(&odd_r, &odd_i, f->split[k - 1], f->split[HALF / 2 + k - 1]);
        int32_t x = (even_r + odd_r) >> 1, y = (even_i + odd_i) >> 1;
        energy[k] = (uint32_t)(x * x + y * y);
        x = (even_r - odd_r) >> 1, y = (odd_i - even_i) >> 1;
        energy[back] = (uint32_t)(x * x + y * y);
    }
}

/* Rounded to nearest; below 2^32 it saturates at 16 bits. */
static uint32_t square_root(uint64_t x) {
    uint64_t root = 0, rest = x;
    for (uint64_t bit = (uint64_t)1 << ((bit_length(x) + 1) & ~1); bit; bit >>= 2) {
        if (rest >= root + bit) {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return (uint32_t)(root + (rest > root && !(root == 65535 && x >> 32 == 0)));
}

static uint32_t compressed(const edgeaudio_micro *f, uint32_t signal, uint32_t noise) {
    int bits = bit_length(noise);
    int32_t fraction = (int32_t)(((uint64_t)noise << 11 >> bits) & 0x3FF);
    int64_t rise = (int64_t)((f->gain[66 + bits] * fraction) >> 5) + f->gain[33 + bits] * 32;
    int16_t gain = (int16_t)(f->gain[bits] + ((rise * fraction + (1 << 14)) >> 15));
    uint32_t ratio = (uint32_t)(((uint64_t)signal * (uint32_t)(int32_t)gain) >> 6);
    return ratio < 8192 ? (ratio * ratio) >> 20 : (ratio >> 6) - 64;
}

static uint32_t logarithm(const edgeaudio_micro *f, uint32_t signal) {
    uint32_t value = signal << 3;
    if (value < 2) return 0;
    int bits = bit_length(value) - 1;
    uint32_t fraction = (uint32_t)(((uint64_t)value << 16 >> bits) - 65536), segment = fraction >> 9;
    int32_t low = f->log[segment], rise = (f->log[segment + 1] - low) * (int32_t)(fraction & 511) >> 16;
    uint64_t binary = ((uint64_t)bits << 16) + fraction + (uint64_t)(low + rise);
    uint64_t natural = (45426 * binary + 32768) >> 16;
    natural = ((natural << 6) + 32768) >> 16;
    return natural < 65535 ? (uint32_t)natural : 65535;
}

static void channels(const edgeaudio_micro *f, const uint32_t *energy, int shift, float *features) {
    uint64_t *work = f->scratch;
    for (int c = 0; c < f->n_mels + 2; c++) work[c] = 0;
    for (int k = f->first_bin; k < f->end_bin; k++) {
        work[f->channels[k]] += (uint64_t)f->weights[k] * energy[k];
        work[f->channels[k] + 1] += (uint64_t)f->rest[k] * energy[k];
    }
    for (int c = 0; c < f->n_mels; c++) {
        uint32_t signal = square_root(work[c + 1]) >> shift, scaled_up = signal << 10;
        uint32_t smoothing = (uint32_t)f->smoothing[c & 1];
        uint32_t noise = (uint32_t)(((uint64_t)scaled_up * smoothing + (uint64_t)f->noise[c] * (16384 - smoothing)) >> 14);
        f->noise[c] = noise;
        uint32_t less = (scaled_up - (noise < scaled_up ? noise : scaled_up)) >> 10;
        uint32_t least = (uint32_t)(((uint64_t)signal * (uint32_t)f->remaining) >> 14);
        signal = less > least ? less : least;
        if (f->has_gain) signal = compressed(f, signal, noise);
        features[c] = (float)logarithm(f, signal) * f->output_scale;
    }
}

/* Features [n, n_mels] of n frames that begin hop_length apart in samples, of which 1 / to_int16 is one code. */
void edgeaudio_micro_features(const edgeaudio_micro *f, const double *samples, double to_int16, int32_t n, float *out) {
    const double round = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to even */
    for (int32_t frame = 0; frame < n; frame++, samples += f->hop_length, out += f->n_mels) {
        int16_t windowed[N_FFT] = {0}, re[HALF], im[HALF];
        uint32_t energy[HALF];
        int peak = 0;
        for (int i = 0; i < f->win_length; i++) {
            double code = (samples[i] * to_int16 + round) - round;
            code = code < -32768.0 ? -32768.0 : code > 32767.0 ? 32767.0 : code;
            int16_t x = (int16_t)(((int32_t)code * f->window[i]) >> 12);
            int size = x == -32768 ? 0 : x < 0 ? -x : x;
            peak = size > peak ? size : peak;
            windowed[i] = x;
        }
        int shift = 15 - bit_length((uint64_t)peak);
        for (int i = 0; i < HALF; i++) {
            int from = (i & 3) << 6 | (i & 12) << 2 | (i & 48) >> 2 | (i & 192) >> 6;
            re[i] = (int16_t)((uint16_t)windowed[2 * from] << shift);
            im[i] = (int16_t)((uint16_t)windowed[2 * from + 1] << shift);
        }
        energies(f, re, im, energy);
        channels(f, energy, shift, out);
    }
}
