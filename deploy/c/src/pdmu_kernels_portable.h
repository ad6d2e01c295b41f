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

/* Copy n values towards lower addresses, or to memory apart; pdmu_copy_few where n is small. */
static inline void pdmu_copy(int16_t *to, const int16_t *from, int32_t n) { memmove(to, from, (size_t)n * sizeof *to); }
#define pdmu_copy_few pdmu_copy

/* total + the sum of a[i] * x[i], exact; a product may reach 2^30. */
static inline int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n, int64_t total) {
    for (int32_t i = 0; i < n; i++) total += a[i] * x[i];
    return total;
}

#define pdmu_memory_rows pdmu_memory_rows_c

/* acc[i] += the sum of weight[k] * ring[offset[k] + i] over eight taps */
static inline void pdmu_delay_taps(int64_t *acc, const int16_t *ring, const int32_t offset[8], const int16_t weight[8], int32_t n) {
    for (int32_t k = 0; k < 8; k++) {
        for (int32_t i = 0; i < n; i++) acc[i] += weight[k] * ring[offset[k] + i];
    }
}

/* v / 2 rounded down, clamped to low ... 32767 */
static inline int16_t pdmu_halve_clamp16(int32_t v, int32_t low) { return pdmu_clamp16(v >> 1, low); }

#endif
