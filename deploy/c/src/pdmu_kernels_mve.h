/* Kernels with Helium, the vector extension of Cortex-M55 and M85; what is not here is as with the DSP extension. */
#ifndef PDMU_KERNELS_MVE_H
#define PDMU_KERNELS_MVE_H

#include <arm_mve.h>

/* Eight taps of one value lie in one vector; its gathers reach 16-bit offsets. */
static PDMU_INLINE void pdmu_delay_taps(int64_t *acc, const int16_t *ring, const int32_t offset[8], const int16_t weight[8], int32_t n) {
    uint16_t near[8];
    for (int32_t k = 0; k < 8; k++) {
        if (offset[k] > UINT16_MAX) {
            pdmu_delay_taps_dsp(acc, ring, offset, weight, n);
            return;
        }
        near[k] = (uint16_t)offset[k];
    }
    const uint16x8_t offsets = vldrhq_u16(near);
    const int16x8_t weights = vldrhq_s16(weight);
    for (int32_t i = 0; i < n; i++) acc[i] = vmlaldavaq_s16(acc[i], vldrhq_gather_shifted_offset_s16(ring + i, offsets), weights);
}

static PDMU_INLINE void pdmu_memory_rows(const int16_t *a, const int16_t *m, const int16_t *b, int32_t u, int16_t *next, int32_t d, uint32_t ka) {
    if (d % 8 != 0) {
        pdmu_memory_rows_dsp(a, m, b, u, next, d, ka);
        return;
    }
    for (int32_t i = 0; i < d; i += 2, a += d) { /* two rows share the loads of m */
        int64_t first = b[i] * u, second = b[i + 1] * u;
        const int16_t *x = m, *below = a + d;
        int32_t eights = d >> 3;
        do {
            const int16x8_t v = vldrhq_s16(x);
            first = vmlaldavaq_s16(first, v, vldrhq_s16(a));
            second = vmlaldavaq_s16(second, v, vldrhq_s16(below));
            a += 8;
            below += 8;
            x += 8;
        } while (--eights);
        next[i] = pdmu_saturate16(pdmu_rshift_round_low(first, ka));
        next[i + 1] = pdmu_saturate16(pdmu_rshift_round_low(second, ka));
    }
}

#if defined(PDMU_WIDE_WEIGHTS)
static PDMU_INLINE int16x8_t pdmu_weights8(const int16_t *w) { return vldrhq_s16(w); }
#else
static PDMU_INLINE int16x8_t pdmu_weights8(const int8_t *w) { return vldrbq_s16(w); }
#endif

/* Sum of w[i] * x[i], exact. */
static inline int64_t pdmu_dot(const pdmu_weight *w, const int16_t *x, int32_t n) {
    int64_t sum = 0;
    for (; n >= 8; n -= 8, w += 8, x += 8) sum = vmlaldavaq_s16(sum, pdmu_weights8(w), vldrhq_s16(x));
    for (int32_t i = 0; i < n; i++) sum += w[i] * x[i];
    return sum;
}

#endif
