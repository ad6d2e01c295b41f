/* Kernels in plain C. */
#ifndef PDMU_KERNELS_PORTABLE_H
#define PDMU_KERNELS_PORTABLE_H

/* Two neighbouring int16. */
typedef struct {
    int16_t low, high;
} pdmu_pair;

static inline pdmu_pair pdmu_load_pair(const int16_t *p) { return (pdmu_pair){p[0], p[1]}; }

/* a * b + c, of the first and of the second of each pair; |a * b| + |c| below 2^31 */
static inline int32_t pdmu_mul_low(pdmu_pair a, pdmu_pair b, int32_t c) { return a.low * b.low + c; }
static inline int32_t pdmu_mul_high(pdmu_pair a, pdmu_pair b, int32_t c) { return a.high * b.high + c; }

/* Sum of w[i] * p[i] below 2^63; w up to 2^15, p not negative. */
static inline int64_t pdmu_dot_power(const uint16_t *w, const int64_t *p, int32_t n) {
    int64_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += w[i] * p[i];
    return sum;
}

#endif
