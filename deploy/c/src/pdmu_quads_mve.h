/* Linear maps in quads (pdmu_dense) with Helium, the vector extension of Cortex-M55 and M85. */
#ifndef PDMU_QUADS_MVE_H
#define PDMU_QUADS_MVE_H

#include <arm_mve.h>

#if defined(PDMU_WIDE_WEIGHTS)
static PDMU_INLINE int32x4_t pdmu_weights4(const int16_t *w) { return vldrhq_s32(w); }
#else
static PDMU_INLINE int32x4_t pdmu_weights4(const int8_t *w) { return vldrbq_s32(w); }
#endif

/* Eight weights, and on to the next: told to the compiler so that it increments where it loads. */
static PDMU_INLINE int16x8_t pdmu_next8(const pdmu_weight **w) {
    const int16x8_t v = pdmu_weights8(*w);
    *w += 8;
    __asm__("" : "+r"(*w));
    return v;
}

/* The sums of four rows over n / 8 > 0 blocks; the weights after them are returned. */
static PDMU_INLINE const pdmu_weight *pdmu_blocks(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3], blocks = n >> 3;
    do {
        const int16x8_t v = vldrhq_s16(x);
        x += 8;
        a = vmladavaq_s16(a, v, pdmu_next8(&w));
        b = vmladavaq_s16(b, v, pdmu_next8(&w));
        c = vmladavaq_s16(c, v, pdmu_next8(&w));
        d = vmladavaq_s16(d, v, pdmu_next8(&w));
    } while (--blocks);
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
    return w;
}

static PDMU_INLINE void pdmu_dot4(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t acc[4]) { (void)pdmu_blocks(w, x, n, acc); }

/* The product's high word, rounded by shift - 32: the complement of what quads holds is that, negative, as the instruction wants it. */
static PDMU_INLINE void pdmu_requant4(int32x4_t acc, const int32_t *quads, int32_t low, int16_t *y) {
    const int32x4_t scaled = vrshlq_s32(vmulhq_s32(acc, vldrwq_s32(quads + 4)), vmvnq_s32(vldrwq_s32(quads + 8)));
    vstrhq_s32(y, vmaxq_s32(vminq_s32(scaled, vdupq_n_s32(PDMU_I16_MAX)), vdupq_n_s32(low)));
}

static PDMU_INLINE void pdmu_dense_quads(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    const pdmu_weight *w = map->weight;
    const int32_t cols = map->cols;
    for (const int32_t *quads = map->quads, *const end = quads + 3 * map->rows; quads < end; quads += 12, y += 4) {
        int32_t acc[4] = {quads[0], quads[1], quads[2], quads[3]};
        w = pdmu_blocks(w, x, cols, acc);
        pdmu_requant4(vsetq_lane_s32(acc[3], vsetq_lane_s32(acc[2], vsetq_lane_s32(acc[1], vdupq_n_s32(acc[0]), 1), 2), 3), quads, low, y);
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
