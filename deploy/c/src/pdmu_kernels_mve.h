/* Kernels with Helium, the vector extension of Cortex-M55 and M85. */
#ifndef PDMU_KERNELS_MVE_H
#define PDMU_KERNELS_MVE_H

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

#endif
