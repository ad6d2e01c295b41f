/* Streaming mel front end by the integer law: MODEL.md 2.1, pdmu/frontend.py. */
#include "pdmu_fixed.h"
#include "pdmu_internal.h"
#include "pdmu_kernels.h"

#define PCEN_G_MIN_Q12 (-8 * 4096)
#define PCEN_G_SPAN_Q12 (24 * 4096)

/* A point held in registers, where a pdmu_bin would stay in memory. */
typedef struct {
    int32_t re, im;
} point;

/* Twiddles that the law does not multiply by, known when compiling. */
typedef enum { TWIDDLE_ONE, TWIDDLE_MINUS_J, TWIDDLE_ANY } twiddle;

static inline point load(const pdmu_bin *z) { return (point){z->z.re, z->z.im}; }

static inline void store(pdmu_bin *z, point v) {
    z->z.re = v.re;
    z->z.im = v.im;
}

/* rs(w * v, 32), half of the law's product by a Q31 constant */
static inline point half_product(point w, point v) {
    return (point){pdmu_round_high((int64_t)w.re * v.re + (int64_t)-w.im * v.im), pdmu_round_high((int64_t)w.re * v.im + (int64_t)w.im * v.re)};
}

static PDMU_INLINE void butterfly(point *top, point *bottom, twiddle kind, point w) {
    point t = kind == TWIDDLE_ONE ? *bottom : (point){bottom->im, -bottom->re};
    if (kind == TWIDDLE_ANY) {
        const point h = half_product(w, *bottom);
        t = (point){2 * h.re, 2 * h.im};
    }
    *bottom = (point){top->re - t.re, top->im - t.im};
    *top = (point){top->re + t.re, top->im + t.im};
}

/* Two stages over four points h apart: the first with twiddle w1, the second with w2 and, a quarter turn on, -j w2. */
static PDMU_INLINE void two_stages(pdmu_bin *z, int32_t h, twiddle kind1, point w1, twiddle kind2, point w2) {
    point a = load(z), b = load(z + h), c = load(z + 2 * h), d = load(z + 3 * h);
    butterfly(&a, &b, kind1, w1);
    butterfly(&c, &d, kind1, w1);
    butterfly(&a, &c, kind2, w2);
    butterfly(&b, &d, kind2 == TWIDDLE_ONE ? TWIDDLE_MINUS_J : TWIDDLE_ANY, (point){w2.im, -w2.re});
    store(z, a);
    store(z + h, b);
    store(z + 2 * h, c);
    store(z + 3 * h, d);
}

/* The Q31 pair e^(-2 pi i t / M) */
static inline const int32_t *twiddle_at(const pdmu_frontend *fe, int32_t t) { return fe->twiddle_q31 + 2 * t; }

static inline point point_at(const int32_t *pair) { return (point){pair[0], pair[1]}; }

#if !defined(PDMU_FFT_GROUP)
/* Butterflies at positions from ... to - 1 of a group whose twiddles are multiplied. */
static PDMU_INLINE void two_stages_any(pdmu_bin *z, int32_t half, const int32_t *w1, const int32_t *w2, int32_t step, int32_t from, int32_t to) {
    w1 += 4 * step * from;
    w2 += 2 * step * from;
    for (pdmu_bin *at = z + from, *end = z + to; at < end; at++, w1 += 4 * step, w2 += 2 * step) {
#if defined(PDMU_FFT_TWO_STAGES)
        PDMU_FFT_TWO_STAGES(&at->z.re, half, w1, w2);
#else
        two_stages(at, half, TWIDDLE_ANY, point_at(w1), TWIDDLE_ANY, point_at(w2));
#endif
    }
}
#endif

/* `half` is a constant of the call, so that the strides are known when compiling. */
static PDMU_INLINE void fft_two_stages(const pdmu_frontend *fe, pdmu_bin *z, int32_t half) {
    const int32_t m = fe->window / 2, step = m / (4 * half); /* of the second stage's twiddles; twice that of the first's */
    const int32_t *w = fe->twiddle_q31;
    const point none = {0, 0}, eighth = point_at(twiddle_at(fe, step * (half / 2)));
    for (const pdmu_bin *end = z + m; z < end; z += 4 * half) {
        two_stages(z, half, TWIDDLE_ONE, none, TWIDDLE_ONE, none);
#if defined(PDMU_FFT_GROUP)
        PDMU_FFT_GROUP(&z->z.re, half, w, step);
        two_stages(z + half / 2, half, TWIDDLE_MINUS_J, none, TWIDDLE_ANY, eighth);
#else
        two_stages_any(z, half, w, w, step, 1, half / 2);
        two_stages(z + half / 2, half, TWIDDLE_MINUS_J, none, TWIDDLE_ANY, eighth);
        two_stages_any(z, half, w, w, step, half / 2 + 1, half);
#endif
    }
}

/* The last stage, where the number of stages is odd. */
static void fft_last_stage(const pdmu_frontend *fe, pdmu_bin *z) {
    const int32_t half = fe->window / 4;
    for (int32_t i = 0; i < half; i++) {
        point top = load(z + i), bottom = load(z + i + half);
        if (i == 0) {
            butterfly(&top, &bottom, TWIDDLE_ONE, top);
        } else if (2 * i == half) {
            butterfly(&top, &bottom, TWIDDLE_MINUS_J, top);
        } else {
            butterfly(&top, &bottom, TWIDDLE_ANY, point_at(twiddle_at(fe, i)));
        }
        store(z + i, top);
        store(z + i + half, bottom);
    }
}

static inline point windowed(const int16_t *x, const int16_t *w) {
    const pdmu_pair v = pdmu_load_pair(x), c = pdmu_load_pair(w);
    return (point){pdmu_mul_low(v, c, 128) >> 8, pdmu_mul_high(v, c, 128) >> 8};
}

/* Window, bit-reversed order and the first two stages: four neighbours of that order lie M / 4 points apart in the signal. */
static void fft_first_stages(const pdmu_frontend *fe, const int16_t *x, pdmu_bin *z) {
    const int32_t m = fe->window / 2, quarter = m / 2; /* samples, two a point */
    for (int32_t i = 0; i < m; i += 4) {
        const int32_t s = 2 * (int32_t)fe->bit_reverse[i];
        const int16_t *v = x + s, *w = fe->window_q15 + s;
        point a = windowed(v, w), b = windowed(v + 2 * quarter, w + 2 * quarter);
        point c = windowed(v + quarter, w + quarter), d = windowed(v + 3 * quarter, w + 3 * quarter);
        butterfly(&a, &b, TWIDDLE_ONE, a);
        butterfly(&c, &d, TWIDDLE_ONE, a);
        butterfly(&a, &c, TWIDDLE_ONE, a);
        butterfly(&b, &d, TWIDDLE_MINUS_J, a);
        store(z + i, a);
        store(z + i + 1, b);
        store(z + i + 2, c);
        store(z + i + 3, d);
    }
}

/* Radix-2 decimation in time over M points, two stages at a time. */
static void fft(const pdmu_frontend *fe, const int16_t *window, pdmu_bin *z) {
    const int32_t m = fe->window / 2;
    fft_first_stages(fe, window, z);
    fft_two_stages(fe, z, 4);
    if (m >= 64) fft_two_stages(fe, z, 16);
    if (m >= 256) fft_two_stages(fe, z, 64);
    if (m == 32 || m == 128 || m == 512) fft_last_stage(fe, z);
}

static inline int64_t squared(int32_t re, int32_t im) { return (int64_t)re * re + (int64_t)im * im; }

/* Replace the packed transform by the power of bins 0 ... M-1, in place: k and M-k need each other, and the twiddle of M-k is that of k with
 * its real part negated (as tables.py rounds it, which the tests hold). Everything is halved once, lest a sum leave int32. */
static void power(const pdmu_frontend *fe, pdmu_bin *z) {
    const int32_t m = fe->window / 2;
    const int64_t zero = pdmu_rshift_round((int64_t)z[0].z.re + z[0].z.im, 7);
    const int32_t *c = fe->split_q31;
    z[0].power = zero * zero;
    for (pdmu_bin *low = z + 1, *high = z + m - 1; low <= high; low++, high--) {
        c += 2;
        const point v = load(low), mirror = load(high);
        const int32_t even_r = v.re + mirror.re, even_i = v.im - mirror.im;
        const int32_t odd_r = v.im + mirror.im, odd_i = mirror.re - v.re; /* -j (Z[k] - conj Z[M-k]) */
        const int64_t tr = (int64_t)c[0] * odd_r + (int64_t)-c[1] * odd_i;
        const int32_t ti = pdmu_round_high((int64_t)c[0] * odd_i + (int64_t)c[1] * odd_r);
        const int32_t half_r = (even_r >> 1) + 64;
        low->power = squared((half_r + pdmu_round_high(tr)) >> 7, ((even_i >> 1) + 64 + ti) >> 7);
        high->power = squared((half_r + pdmu_round_high(-tr)) >> 7, (64 - ((even_i + 1) >> 1) + ti) >> 7);
    }
}

/* Base-2 logarithm in Q12 of v >= 1: the mantissa below its leading one is truncated to 24 bits. */
static PDMU_INLINE int32_t log2_q12(const int32_t *table_q16, uint64_t v) {
    const uint32_t high = (uint32_t)(v >> 32), low = (uint32_t)v;
    uint32_t mantissa; /* its leading one at bit 31 */
    int32_t exponent;
    if (high) {
        const int32_t zeros = pdmu_leading_zeros(high); /* not 0: v is no negative number */
        mantissa = high << zeros | low >> (32 - zeros);
        exponent = 63 - zeros;
    } else {
        const int32_t zeros = pdmu_leading_zeros(low);
        mantissa = low << zeros;
        exponent = 31 - zeros;
    }
    const int32_t *entry = table_q16 + ((mantissa >> 23) & 0xFFu);
    const int32_t fraction = (int32_t)((mantissa >> 7) & 0xFFFFu);
    /* the law's T 2^16 + (T' - T) f, rounded by 20 bits, without leaving int32 */
    return exponent * 4096 + ((entry[0] + (((entry[1] - entry[0]) * fraction + (1 << 19)) >> 16)) >> 4);
}

static PDMU_INLINE int16_t pcen(const pdmu_frontend *fe, int64_t energy, int64_t *smoother) {
    const int64_t smoothed = *smoother + pdmu_rshift_round31(energy * 256 - *smoother, (uint32_t)fe->smooth_shift);
    *smoother = smoothed;
    const int32_t reference = log2_q12(fe->log2_q16, (uint64_t)(pdmu_rshift_round31(smoothed, 8) + fe->floor));
    const int32_t g = log2_q12(fe->log2_q16, (uint64_t)(energy + 1)) + pdmu_rshift_round_low((int64_t)-fe->alpha_q15 * reference, 15);
    const int32_t position = g - PCEN_G_MIN_Q12;
    if (position <= 0) return fe->pcen_q9[0];
    if (position >= PCEN_G_SPAN_Q12) return fe->pcen_q9[PCEN_G_SPAN_Q12 >> 8];
    return (int16_t)pdmu_lookup16(fe->pcen_q9, position, 8);
}

void pdmu_frontend_frame(const pdmu_frontend *fe, const int16_t *window, int64_t *smoother, pdmu_bin *spectrum, int16_t *features,
                         const pdmu_trace *trace) {
    fft(fe, window, spectrum);
    power(fe, spectrum);
    const uint16_t *weight = fe->mel_q15;
    const int32_t floor_log2_q12 = log2_q12(fe->log2_q16, (uint64_t)fe->floor);
    for (int32_t b = 0; b < fe->n_mels; b++) {
        const int64_t energy = pdmu_rshift_round(pdmu_dot_power(weight, &spectrum[fe->mel_first[b]].power, fe->mel_count[b]), 15);
        weight += fe->mel_count[b];
        if (fe->compression == PDMU_PCEN) {
            features[b] = pcen(fe, energy, &smoother[b]);
        } else {
            features[b] = pdmu_clamp16(pdmu_rshift_round(log2_q12(fe->log2_q16, (uint64_t)(energy + fe->floor)) - floor_log2_q12, 3), PDMU_I16_MIN);
        }
    }
    if (fe->compression == PDMU_PCEN) {
        pdmu_emit_stage(trace, PDMU_STAGE_SMOOTHER, 0, smoother, (size_t)fe->n_mels * sizeof *smoother);
    }
    pdmu_emit_stage(trace, PDMU_STAGE_FEATURES, 0, features, (size_t)fe->n_mels * sizeof *features);
}
