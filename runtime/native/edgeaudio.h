/* The rooms of the core: what each of them is given, and what it answers. Nothing here allocates or holds state of its
   own; every address is the caller's. */

#ifndef EDGEAUDIO_H
#define EDGEAUDIO_H

#include <stdint.h>

#define EDGEAUDIO_VERSION 8 /* of these structures and functions; a library of another version is not used */

int32_t edgeaudio_version(void);

/* --- front_end.c: frames to features --- */

typedef struct {
    int32_t win_length; /* samples in a frame */
    int32_t hop_length; /* samples between frames */
    int32_t half;       /* n_fft / 2: length of the complex transform */
    int32_t n_passes;   /* passes of the transform */
    int32_t first_bin;  /* first bin with a weight in any band */
    int32_t n_bins;     /* bins from there on that any band may read */
    int32_t n_mels;
    int32_t n_dct;      /* 0: no DCT */
    int32_t removes_dc; /* subtract the mean of each frame */
    int32_t magnitude;  /* 1: magnitude, 0: power */
    int32_t has_log;
    int32_t adds_floor; /* 1: log(x + floor), 0: log(max(x, floor)) */
    double preemphasis, first_preemphasis; /* x[n] - c x[n-1] within the frame; x[0] (1 - c0) at its start */
    double log_floor, log_factor;
    double clamp_min, clamp_max;
    double affine_offset, affine_scale; /* (x + offset) * scale */
    const double *window;               /* [win_length]; half of it, which the unpacking needs */
    const int32_t *radices;             /* [n_passes] */
    const double *twiddles;             /* for each pass: cosines [radix - 1][m], sines [radix - 1][m] */
    const double *roots;                /* cosines [radix], sines [radix] of each pass that is not of radix 4 or 2 */
    const double *unpack;               /* cosines [half + 1], sines [half + 1] of all bins, mirror images to the bit */
    const int32_t *band_start;          /* [n_mels]: first bin of a band, counted from first_bin */
    const int32_t *band_groups;         /* [n_mels]: its length in groups of PARTS bins */
    const double *band_weights;         /* the bands one after the other */
    const double *dct;                  /* [n_mels][n_dct] */
    double *scratch;                    /* edgeaudio_scratch_doubles() of them, at an address for doubles */
} edgeaudio_front_end;

int32_t edgeaudio_scratch_doubles(const edgeaudio_front_end *f);
void edgeaudio_features(const edgeaudio_front_end *f, const double *samples, int32_t n_frames, float *features);

/* --- network.c: codes of a step to logits --- */

typedef struct {
    const void *from;
    void *to;
    int64_t n_bytes;
} edgeaudio_copy;

enum { EDGEAUDIO_COPY, EDGEAUDIO_DENSE, EDGEAUDIO_DEPTHWISE, EDGEAUDIO_FRAMES, EDGEAUDIO_ADD, EDGEAUDIO_CLAMP };

/* An operation on [frames][bins][channels]; which fields count depends on the kind. */
typedef struct {
    int32_t kind;
    int32_t n_out;         /* outputs of a dense convolution, channels of a depthwise one, else codes in all */
    int32_t n_in;          /* codes that an output of a dense convolution reads */
    int32_t bins, channels; /* of the input */
    int32_t out_t, out_f;  /* frames and bins of the output */
    int32_t kernel_t, kernel_f, stride_t, stride_f, dilation_t, dilation_f, pad_low;
    int32_t is_contiguous; /* the codes that an output reads lie one behind the other */
    int32_t x_zero, y_zero;
    float low, high, zero; /* of the output */
    float x_ratio, y_ratio;
    const int8_t *x, *y;
    int8_t *out;
    const int8_t *weights; /* dense: see network.c; depthwise and frames: [kernel_t][kernel_f][channels] */
    const int16_t *pairs;  /* frames: [even, odd][kernel_t / 2 + 1][channels, up to whole blocks of 16][2], network.c */
    const int32_t *bias, *bias_unsigned; /* [n_out, up to whole blocks of 16] */
    const float *multiplier; /* [n_out, up to whole blocks of 16] */
    int8_t *room;          /* two windows of n_in codes and a few */
    int32_t *sums;         /* two rows of n_out, up to whole blocks of 16 */
} edgeaudio_op;

typedef struct {
    int32_t n_ops, n_carried;
    int32_t level, reserved;       /* of vectors: at most what edgeaudio_level() says */
    const edgeaudio_op *ops;
    const edgeaudio_copy *carried; /* states, done when a step ends */
} edgeaudio_network;

int32_t edgeaudio_level(void);
void edgeaudio_run(const edgeaudio_network *n);

/* --- stream.c: samples to the codes a network reads, its logits to whether anybody need look at them --- */

typedef struct {
    int64_t n_samples;     /* pushed since the reset */
    int64_t n_passed;      /* steps before those that wait, at which nobody need look */
    int32_t skip;          /* samples still to be left out before the first frame */
    int32_t buffer_length; /* samples that the buffer holds */
    int32_t fill;          /* samples in it */
    int32_t next_frame;    /* sample in it at which the next frame begins */
    int32_t step_frames;   /* frames that a network step takes */
    int32_t n_features;
    int32_t n_logits;   /* codes that a network step gives: outputs_per_step * n_labels */
    int32_t n_labels;
    int32_t n_copies;   /* states to carry from a step to the next */
    int32_t capacity;   /* steps that may wait to be looked at */
    int32_t n_waiting;  /* steps that wait */
    int32_t always;     /* 1: every step is to be looked at */
    int32_t n_smoothing; /* outputs that a score is the mean of */
    int32_t smoothing_at; /* row of the oldest of them */
    float scale;        /* of the codes that the network reads */
    float zero_point, low, high;
    double real_scale;  /* > 0: logit codes are probabilities of this scale; 0: logits */
    int32_t real_zero_point;
    int32_t n_kept;        /* newest of the waiting steps that stay when there is no more room; 0: a look makes room */
    const edgeaudio_front_end *front_end; /* 0: features come by edgeaudio_take() */
    double *buffer;      /* [buffer_length], full scale at -32768..32767 */
    int8_t *input;       /* [step_frames][n_features] of the network */
    const int8_t *logits; /* [n_logits] of the network */
    const edgeaudio_copy *copies; /* [n_copies] */
    float *features;     /* [capacity][step_frames][n_features] of the steps that wait */
    int8_t *codes;       /* [capacity][n_logits] of the steps that wait */
    const double *powers; /* [256]: exp(-scale d) of a difference d of logit codes */
    const double *bounds; /* [n_labels]: sum of n_smoothing probabilities at which to look; infinite for background */
    const double *releases; /* [n_labels]: sum below which a latched label is let go */
    uint8_t *latched;    /* [n_labels]: labels that fired, at whose bounds nobody looks */
    double *probabilities; /* [n_smoothing][n_labels] of the newest outputs */
    const edgeaudio_network *network; /* run here, or 0 for a network that the caller runs */
} edgeaudio_stream;

/* Where the caller runs the network, both return EDGEAUDIO_STEP when the input of the network holds the codes of a new step; it is to be run and
   edgeaudio_after() to be called. That one answers EDGEAUDIO_LOOK when the waiting steps are to be looked at, and
   EDGEAUDIO_STEP when one more step can be made of the samples that are there, for which edgeaudio_next() is called. Where the network
   runs here, both make and run steps until some are to be looked at, and answer as edgeaudio_after() does. */
#define EDGEAUDIO_STEP 1
#define EDGEAUDIO_LOOK 2

int32_t edgeaudio_push(edgeaudio_stream *s, const int16_t *samples, int32_t n);
/* Full scale at -1..1. */
int32_t edgeaudio_push_real(edgeaudio_stream *s, const float *samples, int32_t n);
int32_t edgeaudio_next(edgeaudio_stream *s);
/* Takes a step whose features the caller computed, and wrote where those of the next waiting step go. */
int32_t edgeaudio_take(edgeaudio_stream *s);
int32_t edgeaudio_after(edgeaudio_stream *s);
void edgeaudio_quantize(const float *features, int32_t n, float scale, float zero_point, float low, float high,
                        int8_t *codes);

#endif
