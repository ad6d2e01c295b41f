/* The inner products everything else is built of. A port to a processor with its own instructions replaces this file alone.
 *
 * Block sums stay in int32, where compilers and DSP instructions are fast: 256 products of int8 and int16 are below 2^30.
 */
#ifndef PDMU_KERNELS_H
#define PDMU_KERNELS_H

#include <stdint.h>

#define PDMU_DOT_BLOCK 256

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
