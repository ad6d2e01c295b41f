/* What a port to a processor with its own instructions replaces, here and in pdmu_quads.h: chosen when compiling, equal to the last bit. */
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

/* next[i] = sat16(rs(a[i] . m + b[i] u, ka)), a [d][d], where int32 holds the quotients and ka is below 32 */
static inline void pdmu_memory_rows_c(const int16_t *a, const int16_t *m, const int16_t *b, int32_t u, int16_t *next, int32_t d, uint32_t ka) {
    for (int32_t i = 0; i < d; i++) {
        int64_t sum = b[i] * u;
        for (int32_t j = 0; j < d; j++) sum += *a++ * m[j];
        next[i] = pdmu_clamp16(pdmu_rshift_round_low(sum, ka), PDMU_I16_MIN);
    }
}

/* PDMU_PORTABLE keeps to C on every processor. Assembly's operands need an optimising compiler. */
#if defined(__GNUC__) && defined(__OPTIMIZE__) && defined(__ARM_FEATURE_DSP) && !defined(PDMU_PORTABLE)
#define PDMU_DSP
#include "pdmu_kernels_dsp.h"
#else
#include "pdmu_kernels_portable.h"
#endif

static inline int32_t pdmu_leading_zeros(uint32_t v) { /* v > 0 */
#if defined(__GNUC__) && !defined(__AVR__)
    return __builtin_clzl(v) - (int32_t)(8 * (sizeof(unsigned long) - sizeof v));
#else
    int32_t n = 0;
    for (; !(v & 0x80000000u); v <<= 1) n++;
    return n;
#endif
}

#if !defined(PDMU_MVE)
/* Sums of 256 products of int8 and int16 stay below 2^30: in int32, where compilers are fast. */
#define PDMU_DOT_BLOCK 256

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
#endif

#endif
