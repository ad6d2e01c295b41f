/* Streaming mel front end by the integer law: MODEL.md 2.1, pdmu/frontend.py. */
#include "pdmu_fixed.h"
#include "pdmu_internal.h"

#define PCEN_G_MIN_Q12 (-8 * 4096)
#define PCEN_G_SPAN_Q12 (24 * 4096)

/* (re + j im) = 2 * rs(w * v, 32): a product by a Q31 constant that costs one rounding */
static void rotate(const int32_t *w, int32_t vr, int32_t vi, int32_t *re, int32_t *im) {
    const int64_t wr = w[0], wi = w[1];
    *re = (int32_t)(2 * pdmu_rshift_round(wr * vr - wi * vi, 32));
    *im = (int32_t)(2 * pdmu_rshift_round(wr * vi + wi * vr, 32));
}

static void butterfly(pdmu_bin *top, pdmu_bin *bottom, int32_t tr, int32_t ti) {
    bottom->z.re = top->z.re - tr;
    bottom->z.im = top->z.im - ti;
    top->z.re += tr;
    top->z.im += ti;
}

/* Radix-2 decimation in time over M points in bit-reversed order. */
static void fft(const pdmu_frontend *fe, pdmu_bin *z) {
    const int32_t m = fe->window / 2;
    for (int32_t half = 1; half < m; half *= 2) {
        for (int32_t top = 0; top < m; top += 2 * half) { /* twiddle 1 is not multiplied */
            butterfly(&z[top], &z[top + half], z[top + half].z.re, z[top + half].z.im);
        }
        for (int32_t i = 1; i < half; i++) {
            if (2 * i == half) { /* nor is -j */
                for (int32_t top = i; top < m; top += 2 * half) {
                    butterfly(&z[top], &z[top + half], z[top + half].z.im, -z[top + half].z.re);
                }
                continue;
            }
            const int32_t *w = &fe->twiddle_q31[2 * (i * (m / (2 * half)))];
            for (int32_t top = i; top < m; top += 2 * half) {
                int32_t tr, ti;
                rotate(w, z[top + half].z.re, z[top + half].z.im, &tr, &ti);
                butterfly(&z[top], &z[top + half], tr, ti);
            }
        }
    }
}

/* Power of bin k of the real signal from the packed transform's points k and M - k. */
static int64_t split_power(const int32_t *c, pdmu_bin z, pdmu_bin mirror) {
    const int32_t even_r = z.z.re + mirror.z.re, even_i = z.z.im - mirror.z.im;
    const int32_t odd_r = z.z.im + mirror.z.im, odd_i = mirror.z.re - z.z.re; /* -j (Z[k] - conj Z[M-k]) */
    int32_t tr, ti;
    rotate(c, odd_r, odd_i, &tr, &ti);
    const int64_t re = pdmu_rshift_round((int64_t)even_r + tr, 8), im = pdmu_rshift_round((int64_t)even_i + ti, 8);
    return re * re + im * im;
}

/* Replace the packed transform by the power of bins 0 ... M-1, in place: k and M-k need each other and are done together. */
static void power(const pdmu_frontend *fe, pdmu_bin *z) {
    const int32_t m = fe->window / 2;
    const int64_t zero = pdmu_rshift_round((int64_t)z[0].z.re + z[0].z.im, 7);
    z[0].power = zero * zero;
    for (int32_t k = 1; k <= m / 2; k++) {
        const pdmu_bin low = z[k], high = z[m - k];
        z[k].power = split_power(&fe->split_q31[2 * k], low, high);
        z[m - k].power = split_power(&fe->split_q31[2 * (m - k)], high, low);
    }
}

static int32_t floor_log2(uint64_t v) {
#if defined(__GNUC__)
    return 63 - __builtin_clzll(v);
#else
    int32_t e = 0;
    while (v >>= 1) e++;
    return e;
#endif
}

/* Base-2 logarithm in Q12 of v >= 1. */
static int32_t log2_q12(const int32_t *table_q16, int64_t v) {
    const int32_t e = floor_log2((uint64_t)v);
    const int32_t mantissa = (int32_t)(e < 24 ? v << (24 - e) : v >> (e - 24)) - (1 << 24);
    const int32_t index = mantissa >> 16, fraction = mantissa & 0xFFFF;
    const int64_t sum = (int64_t)table_q16[index] * 65536 + (int64_t)(table_q16[index + 1] - table_q16[index]) * fraction;
    return e * 4096 + (int32_t)pdmu_rshift_round(sum, 20);
}

static int16_t pcen(const pdmu_frontend *fe, int64_t energy, int64_t *smoother) {
    *smoother += pdmu_rshift_round(energy * 256 - *smoother, (uint32_t)fe->smooth_shift);
    const int32_t reference = log2_q12(fe->log2_q16, pdmu_rshift_round(*smoother, 8) + fe->floor);
    const int64_t sum = (int64_t)log2_q12(fe->log2_q16, energy + 1) * 32768 - (int64_t)fe->alpha_q15 * reference;
    const int32_t position = (int32_t)pdmu_rshift_round(sum, 15) - PCEN_G_MIN_Q12;
    if (position <= 0) return fe->pcen_q9[0];
    if (position >= PCEN_G_SPAN_Q12) return fe->pcen_q9[PCEN_G_SPAN_Q12 >> 8];
    return (int16_t)pdmu_lookup16(fe->pcen_q9, position, 8);
}

static int64_t mel_energy(const uint16_t *weight_q15, const pdmu_bin *bins, int32_t count) {
    int64_t sum = 0;
    for (int32_t i = 0; i < count; i++) sum += weight_q15[i] * bins[i].power;
    return pdmu_rshift_round(sum, 15);
}

void pdmu_frontend_frame(const pdmu_frontend *fe, const int16_t *window, int64_t *smoother, pdmu_bin *spectrum, int16_t *features,
                         const pdmu_trace *trace) {
    for (int32_t i = 0; i < fe->window / 2; i++) {
        const int32_t s = 2 * (int32_t)fe->bit_reverse[i];
        spectrum[i].z.re = (window[s] * fe->window_q15[s] + 128) >> 8;
        spectrum[i].z.im = (window[s + 1] * fe->window_q15[s + 1] + 128) >> 8;
    }
    fft(fe, spectrum);
    power(fe, spectrum);
    const uint16_t *weight = fe->mel_q15;
    const int32_t floor_log2_q12 = log2_q12(fe->log2_q16, fe->floor);
    for (int32_t b = 0; b < fe->n_mels; b++) {
        const int64_t energy = mel_energy(weight, &spectrum[fe->mel_first[b]], fe->mel_count[b]);
        weight += fe->mel_count[b];
        if (fe->compression == PDMU_PCEN) {
            features[b] = pcen(fe, energy, &smoother[b]);
        } else {
            features[b] = pdmu_clamp16(pdmu_rshift_round(log2_q12(fe->log2_q16, energy + fe->floor) - floor_log2_q12, 3), PDMU_I16_MIN);
        }
    }
    if (fe->compression == PDMU_PCEN) {
        pdmu_emit_stage(trace, PDMU_STAGE_SMOOTHER, 0, smoother, (size_t)fe->n_mels * sizeof *smoother);
    }
    pdmu_emit_stage(trace, PDMU_STAGE_FEATURES, 0, features, (size_t)fe->n_mels * sizeof *features);
}
