/* What a port to a processor with its own instructions replaces: chosen when compiling, each equal to the portable one to the last bit.
 *
 * Block sums stay in int32, where compilers and DSP instructions are fast: 256 products of int8 and int16 are below 2^30.
 */
#ifndef PDMU_KERNELS_H
#define PDMU_KERNELS_H

#include <stdint.h>
#include <string.h>

#include "pdmu.h"
#include "pdmu_fixed.h"

#if defined(__GNUC__)
#define PDMU_INLINE inline __attribute__((always_inline))
#define PDMU_NOINLINE __attribute__((noinline))
#else
#define PDMU_INLINE inline
#define PDMU_NOINLINE
#endif

/* A depthwise kernel: rows x cols taps; from row to row w_row weights and x_row inputs on, from tap to tap both by step. */
typedef struct {
    int32_t rows, cols, w_row, x_row, step;
} pdmu_taps;

/* PDMU_PORTABLE keeps to C on every processor. Assembly's operands need an optimising compiler. */
#if defined(__GNUC__) && defined(__OPTIMIZE__) && defined(__ARM_FEATURE_DSP) && !defined(PDMU_PORTABLE)
#include "pdmu_kernels_dsp.h"
#else
#include "pdmu_kernels_portable.h"
#endif

#define PDMU_DOT_BLOCK 256

static inline int32_t pdmu_leading_zeros(uint32_t v) { /* v > 0 */
#if defined(__GNUC__) && !defined(__AVR__)
    return __builtin_clzl(v) - (int32_t)(8 * (sizeof(unsigned long) - sizeof v));
#else
    int32_t n = 0;
    for (; !(v & 0x80000000u); v <<= 1) n++;
    return n;
#endif
}

/* v / 2^shift, rounded and clamped, for shifts above 32: the high word is enough. */
static PDMU_INLINE int16_t pdmu_scale_high(int64_t v, uint32_t shift, int32_t low) {
    return pdmu_halve_clamp16(((int32_t)(v >> 32) >> (shift - 33u)) + 1, low);
}

/* pdmu_requant where the sum fits int32 and the shift is above 32. */
static PDMU_INLINE int16_t pdmu_requant_high(int32_t acc, int32_t mult, uint32_t shift, int32_t low) {
    return pdmu_scale_high((int64_t)acc * mult, shift, low);
}

/* Sum of w[i] * x[i], exact. */
static inline int64_t pdmu_dot(const pdmu_weight *w, const int16_t *x, int32_t n) {
    int64_t total = 0;
    while (n > 0) {
        const int32_t block = n < PDMU_DOT_BLOCK ? n : PDMU_DOT_BLOCK;
        int32_t sum = 0;
        for (int32_t i = 0; i < block; i++) sum += (int16_t)w[i] * x[i];
        total += sum;
        w += block;
        x += block;
        n -= block;
    }
    return total;
}

/* Sum over a depthwise kernel of w * x for one channel; at most 511 taps, which int32 holds. */
static inline int32_t pdmu_depthwise1(const pdmu_taps *t, const pdmu_weight *w, const int16_t *x) {
    int32_t sum = 0;
    for (int32_t k = 0; k < t->rows; k++) {
        for (int32_t j = 0; j < t->cols; j++) sum += w[k * t->w_row + j * t->step] * x[k * t->x_row + j * t->step];
    }
    return sum;
}

#endif
