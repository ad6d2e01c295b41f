/* What a port to a processor with its own instructions replaces: chosen when compiling, each equal to the portable one to the last bit.
 *
 * Block sums stay in int32, where compilers and DSP instructions are fast: 256 products of int8 and int16 are below 2^30.
 */
#ifndef PDMU_KERNELS_H
#define PDMU_KERNELS_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define PDMU_INLINE inline __attribute__((always_inline))
#else
#define PDMU_INLINE inline
#endif

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

/* Sum of w[i] * x[i], exact. */
static inline int64_t pdmu_dot_s8s16(const int8_t *w, const int16_t *x, int32_t n) {
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

/* Sum of a[i] * x[i], exact; a product may reach 2^30. */
static inline int64_t pdmu_dot_s16s16(const int16_t *a, const int16_t *x, int32_t n) {
    int64_t total = 0;
    for (int32_t i = 0; i < n; i++) total += a[i] * x[i];
    return total;
}

/* acc[c] += w[c] * x[c]; the caller adds at most 511 products to one accumulator. */
static inline void pdmu_mac_s8s16(int32_t *acc, const int8_t *w, const int16_t *x, int32_t n) {
    for (int32_t c = 0; c < n; c++) acc[c] += w[c] * x[c];
}

/* acc[h] += g * p[h] */
static inline void pdmu_axpy_s16(int64_t *acc, int32_t g, const int16_t *p, int32_t n) {
    for (int32_t h = 0; h < n; h++) acc[h] += g * p[h];
}

#endif
