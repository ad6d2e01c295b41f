/* Linear maps in quads: four rows share the loads of their inputs (pdmu_dense). In C here, and by processors with their own instructions. */
#ifndef PDMU_QUADS_H
#define PDMU_QUADS_H

#include "pdmu_kernels.h"

/* A depthwise kernel: rows x cols taps, and how far the next row and the next tap are in the weights and in the inputs. */
typedef struct {
    int32_t rows, cols, w_row, w_tap, x_row, x_tap;
} pdmu_taps;

/* acc[0 ... 3] += four rows . x, in blocks of eight columns, where int32 holds every partial sum */
static inline void pdmu_dot4_c(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
    for (const int16_t *const end = x + n; x < end; x += 8, w += 32) {
        for (int32_t i = 0; i < 8; i++) {
            a += w[PDMU_PLACE(i)] * x[i];
            b += w[8 + PDMU_PLACE(i)] * x[i];
            c += w[16 + PDMU_PLACE(i)] * x[i];
            d += w[24 + PDMU_PLACE(i)] * x[i];
        }
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

/* Requantise four sums that fit int32: with shifts above 32 the high word of the product is enough. */
static PDMU_INLINE void pdmu_requant4_c(const int32_t acc[4], const int32_t *quads, int32_t low, int16_t *y) {
    for (int32_t r = 0; r < 4; r++) {
        const int32_t high = (int32_t)(((int64_t)acc[r] * quads[4 + r]) >> 32);
        y[r] = pdmu_halve_clamp16((high >> quads[8 + r]) + 1, low);
    }
}

/* y of a map with quads; `low` is a constant of the call. */
static PDMU_INLINE void pdmu_dense_quads_c(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    const pdmu_weight *w = map->weight;
    for (const int32_t *quads = map->quads, *end = quads + 3 * map->rows; quads < end; quads += 12, w += 4 * map->cols, y += 4) {
        int32_t acc[4] = {quads[0], quads[1], quads[2], quads[3]};
        pdmu_dot4_c(w, x, map->cols, acc);
        pdmu_requant4_c(acc, quads, low, y);
    }
}

/* All channels of one output bin of a depthwise convolution with quads, ReLU included; w and x at the first tap that is inside. */
static inline void pdmu_depthwise_quads_c(const pdmu_taps *t, const pdmu_dense *map, const pdmu_weight *w, const int16_t *x, int16_t *y) {
    for (const int32_t *quads = map->quads, *end = quads + 3 * map->rows; quads < end; quads += 12, w += 4 * map->cols, x += 4, y += 4) {
        int32_t acc[4] = {quads[0], quads[1], quads[2], quads[3]};
        for (int32_t k = 0; k < t->rows; k++) {
            for (int32_t j = 0; j < t->cols; j++) {
                const pdmu_weight *v = w + k * t->w_row + j * t->w_tap;
                const int16_t *u = x + k * t->x_row + j * t->x_tap;
                for (int32_t r = 0; r < 4; r++) acc[r] += v[r] * u[r];
            }
        }
        pdmu_requant4_c(acc, quads, 0, y);
    }
}

#if defined(PDMU_MVE)
#include "pdmu_quads_mve.h"
#elif defined(PDMU_DSP)
#include "pdmu_quads_dsp.h"
#else
#define pdmu_dot4 pdmu_dot4_c
#define pdmu_dense_quads pdmu_dense_quads_c
#define pdmu_depthwise_quads pdmu_depthwise_quads_c
#endif

#endif
