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

/* Two points (re, im) that lie apart */
static PDMU_INLINE int32x4_t pdmu_load_points(const int32_t *p, uint64x2_t apart) {
    return vreinterpretq_s32_s64(vldrdq_gather_offset_s64((const int64_t *)(const void *)p, apart));
}

static PDMU_INLINE void pdmu_store_points(int32_t *p, uint64x2_t apart, int32x4_t v) {
    vstrdq_scatter_offset_s64((int64_t *)(void *)p, apart, vreinterpretq_s64_s32(v));
}

/* The law's product 2 rs(w v, 32): the instructions give w v / 2^31 rounded down, whose half rounded up that is. */
static PDMU_INLINE int32x4_t pdmu_turned(int32x4_t w, int32x4_t v) {
    const int32x4_t product = vqdmladhxq_s32(vqdmlsdhq_s32(v, w, v), w, v);
    return vshlq_n_s32(vrshrq_n_s32(product, 1), 1);
}

/* Two stages over a group of 4 h points, at all positions whose twiddles are multiplied: i and h / 2 + i at once. */
#define PDMU_FFT_GROUP pdmu_fft_group
static PDMU_INLINE void pdmu_fft_group(int32_t *z, int32_t h, const int32_t *w, int32_t step) {
    const uint64x2_t apart = vcreateq_u64(0, (uint64_t)(4 * h));
    const uint64x2_t apart1 = vcreateq_u64(0, (uint64_t)(uint32_t)(8 * step * h)), apart2 = vcreateq_u64(0, (uint64_t)(uint32_t)(4 * step * h));
    const int32_t *w1 = w, *w2 = w;
    for (int32_t i = 1; i < h / 2; i++) {
        z += 2;
        w1 += 4 * step;
        w2 += 2 * step;
        int32x4_t turn = pdmu_load_points(w1, apart1);
        int32x4_t t = pdmu_turned(turn, pdmu_load_points(z + 2 * h, apart));
        int32x4_t a = pdmu_load_points(z, apart);
        const int32x4_t b = vsubq_s32(a, t);
        a = vaddq_s32(a, t);
        t = pdmu_turned(turn, pdmu_load_points(z + 6 * h, apart));
        int32x4_t c = pdmu_load_points(z + 4 * h, apart);
        const int32x4_t d = vsubq_s32(c, t);
        c = vaddq_s32(c, t);
        turn = pdmu_load_points(w2, apart2);
        t = pdmu_turned(turn, c);
        pdmu_store_points(z, apart, vaddq_s32(a, t));
        pdmu_store_points(z + 4 * h, apart, vsubq_s32(a, t));
        t = pdmu_turned(vcaddq_rot270_s32(vdupq_n_s32(0), turn), d); /* by -j w2 */
        pdmu_store_points(z + 2 * h, apart, vaddq_s32(b, t));
        pdmu_store_points(z + 6 * h, apart, vsubq_s32(b, t));
    }
}

#endif
