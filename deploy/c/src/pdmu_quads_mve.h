/* Linear maps in quads (pdmu_dense) with Helium, the vector extension of Cortex-M55 and M85. */
#ifndef PDMU_QUADS_MVE_H
#define PDMU_QUADS_MVE_H

#include <arm_mve.h>

#if defined(PDMU_WIDE_WEIGHTS)
static PDMU_INLINE int32x4_t pdmu_weights4(const int16_t *w) { return vldrhq_s32(w); }
#define PDMU_ASM_WEIGHTS8 "vldrh.u16 q1, [%[w]], #16\n"
#else
static PDMU_INLINE int32x4_t pdmu_weights4(const int8_t *w) { return vldrbq_s32(w); }
#define PDMU_ASM_WEIGHTS8 "vldrb.s16 q1, [%[w]], #8\n"
#endif

/* A quad of rows over blocks of eight inputs; w moves on to the next quad. A compiler keeps the sums in memory. */
static PDMU_INLINE int32x4_t pdmu_quad_sums(const pdmu_weight **w, const int16_t *x, int32_t blocks, const int32_t bias[4]) {
    int32_t a, b, c, d;
    int32x4_t sums;
    __asm__ volatile(
        "ldrd %[a], %[b], [%[bias]]\n"
        "ldrd %[c], %[d], [%[bias], #8]\n"
        "dls lr, %[blocks]\n"
        "1: vldrh.u16 q0, [%[x]], #16\n"
        PDMU_ASM_WEIGHTS8 "vmladava.s16 %[a], q0, q1\n"
        PDMU_ASM_WEIGHTS8 "vmladava.s16 %[b], q0, q1\n"
        PDMU_ASM_WEIGHTS8 "vmladava.s16 %[c], q0, q1\n"
        PDMU_ASM_WEIGHTS8 "vmladava.s16 %[d], q0, q1\n"
        "le lr, 1b\n"
        "vmov %q[sums][2], %q[sums][0], %[a], %[c]\n"
        "vmov %q[sums][3], %q[sums][1], %[b], %[d]\n"
        : [a] "=&Te"(a), [b] "=&Te"(b), [c] "=&Te"(c), [d] "=&Te"(d), [w] "+&r"(*w), [x] "+&r"(x), [sums] "=w"(sums)
        : [blocks] "r"(blocks), [bias] "r"(bias)
        : "q0", "q1", "lr", "memory");
    return sums;
}

static PDMU_INLINE void pdmu_dot4(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    vstrwq_s32(acc, pdmu_quad_sums(&w, x, n >> 3, acc));
}

/* The product's high word, rounded by shift - 32: the complement of what quads holds is that, negative, as the instruction wants it. */
static PDMU_INLINE void pdmu_requant4(int32x4_t acc, const int32_t *quads, int32_t low, int16_t *y) {
    const int32x4_t scaled = vrshlq_s32(vmulhq_s32(acc, vldrwq_s32(quads + 4)), vmvnq_s32(vldrwq_s32(quads + 8)));
    vstrhq_s32(y, vmaxq_s32(vminq_s32(scaled, vdupq_n_s32(PDMU_I16_MAX)), vdupq_n_s32(low)));
}

static PDMU_INLINE void pdmu_dense_quads(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    const pdmu_weight *w = map->weight;
    const int32_t blocks = map->cols >> 3;
    for (const int32_t *quads = map->quads, *end = quads + 3 * map->rows; quads < end; quads += 12, y += 4) {
        pdmu_requant4(pdmu_quad_sums(&w, x, blocks, quads), quads, low, y);
    }
}

static PDMU_INLINE void pdmu_depthwise_quads(const pdmu_taps *t, const pdmu_dense *map, const pdmu_weight *w, const int16_t *x, int16_t *y) {
    for (const int32_t *quads = map->quads, *end = quads + 3 * map->rows; quads < end; quads += 12, w += 4 * map->cols, x += 4, y += 4) {
        const pdmu_weight *row_w = w;
        const int16_t *row_x = x;
        int32x4_t acc = vldrwq_s32(quads);
        for (int32_t k = t->rows; k > 0; k--, row_w += t->w_row, row_x += t->x_row) {
            const pdmu_weight *v = row_w;
            const int16_t *u = row_x;
            for (int32_t j = t->cols; j > 0; j--, v += t->w_tap, u += t->x_tap) {
                acc = vaddq_s32(acc, vmulq_s32(vldrhq_s32(u), pdmu_weights4(v)));
            }
        }
        pdmu_requant4(acc, quads, 0, y);
    }
}

#endif
