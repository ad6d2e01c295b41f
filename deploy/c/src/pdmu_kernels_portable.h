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

/* v / 2 rounded down, clamped to low ... 32767 */
static PDMU_INLINE int16_t pdmu_halve_clamp16(int32_t v, int32_t low) { return pdmu_clamp16(v >> 1, low); }

/* Copy n values towards lower addresses, or to memory apart. */
static PDMU_INLINE void pdmu_copy(int16_t *to, const int16_t *from, int32_t n) { memmove(to, from, (size_t)n * sizeof *to); }

/* Whether pdmu_dot2 may be called with `fast`, a constant that chooses code for aligned rows of eights. */
static PDMU_INLINE int32_t pdmu_dot2_is_fast(const pdmu_weight *w, const int16_t *x, int32_t n) {
    (void)w;
    (void)x;
    (void)n;
    return 1;
}

/* *sum0 += w . x, *sum1 += (w + n) . x where int32 holds every partial sum; the row after these is returned. */
static PDMU_INLINE const pdmu_weight *pdmu_dot2(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t fast, int32_t *sum0, int32_t *sum1) {
    int32_t a = *sum0, b = *sum1;
    (void)fast;
    for (int32_t i = 0; i < n; i++) a += (int16_t)w[i] * x[i];
    w += n;
    for (int32_t i = 0; i < n; i++) b += (int16_t)w[i] * x[i];
    *sum0 = a;
    *sum1 = b;
    return w + n;
}

/* Sum of a[i] * x[i], exact; a product may reach 2^30. */
static PDMU_INLINE int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n) {
    int64_t total = 0;
    for (int32_t i = 0; i < n; i++) total += a[i] * x[i];
    return total;
}

/* acc[i] += g * p[i] + h * q[i] */
static PDMU_INLINE void pdmu_axpy2(int64_t *acc, int16_t g, const int16_t *p, int16_t h, const int16_t *q, int32_t n) {
    for (int32_t i = 0; i < n; i++) acc[i] += (int64_t)(g * p[i]) + h * q[i];
}

/* acc[0 ... 3] += the sums of four neighbouring channels over a depthwise kernel */
static PDMU_INLINE void pdmu_depthwise4(const pdmu_taps *t, const pdmu_weight *w, const int16_t *x, int32_t acc[4]) {
    for (int32_t k = 0; k < t->rows; k++) {
        for (int32_t j = 0; j < t->cols; j++) {
            for (int32_t c = 0; c < 4; c++) acc[c] += w[k * t->w_row + j * t->step + c] * x[k * t->x_row + j * t->step + c];
        }
    }
}

#endif
