/* Kernels with Helium, the vector extension of Cortex-M55 and M85. */
#ifndef PDMU_KERNELS_MVE_H
#define PDMU_KERNELS_MVE_H

#include <arm_mve.h>

/* total + the sum of a[i] * x[i], exact, n above 0 */
static PDMU_INLINE int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n, int64_t total) {
    __asm__ volatile(
        "dlstp.16 lr, %[n]\n"
        "1: vldrh.u16 q0, [%[a]], #16\n"
        "vldrh.u16 q1, [%[x]], #16\n"
        "vmlaldava.s16 %Q[total], %R[total], q0, q1\n"
        "letp lr, 1b\n"
        : [total] "+&r"(total), [a] "+&r"(a), [x] "+&r"(x)
        : [n] "r"(n)
        : "q0", "q1", "lr", "memory");
    return total;
}

static PDMU_INLINE void pdmu_memory_rows(const int16_t *a, const int16_t *m, const int16_t *b, int32_t u, int16_t *next, int32_t d, uint32_t ka) {
    for (const int16_t *const end = next + d; next < end; a += d) {
        *next++ = pdmu_saturate16(pdmu_rshift_round_low(pdmu_dot_wide(a, m, d, *b++ * u), ka));
    }
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
