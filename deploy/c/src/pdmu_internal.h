/* Between the runtime's own files; not for callers. */
#ifndef PDMU_INTERNAL_H
#define PDMU_INTERNAL_H

#include "pdmu.h"

/* Caller-owned memory is a struct of model_data.h that the descriptors describe by offsetof: every access is to a declared member. */
static inline void *pdmu_at(void *base, size_t offset) { return (unsigned char *)base + offset; }

/* Counters of the state, int32 each. */
enum {
    PDMU_COUNT_HISTORY = 0, /* samples in the window */
    PDMU_COUNT_PENDING = 1, /* samples since the last model step */
    PDMU_COUNT_FIRST = 2    /* then frames held by each convolution, then the ring position of each layer */
};

static inline void pdmu_emit_stage(const pdmu_trace *trace, int32_t stage, int32_t index, const void *values, size_t bytes) {
    if (trace) trace->emit(trace->context, stage, index, values, (int32_t)bytes);
}

/* One frame of `window` samples to n_mels features; smoother is the PCEN state. */
void pdmu_frontend_frame(const pdmu_frontend *fe, const int16_t *window, int64_t *smoother, pdmu_bin *spectrum, int16_t *features,
                         const pdmu_trace *trace);

void pdmu_model_init(const pdmu_model *model, void *state);

/* One frame of features into the network; 1 when it completed a model step and wrote its scores, else 0. */
int32_t pdmu_model_frame(const pdmu_model *model, void *state, void *scratch, const int16_t *features, int16_t *scores,
                         const pdmu_trace *trace);

/* Over spikes a row of weights is added for each input that spiked, and nothing is done for the others. */
void pdmu_event_sums(const pdmu_dense *map, const int16_t *x, int32_t *sums);
void pdmu_event_dense(const pdmu_dense *map, const int16_t *x, int32_t *sums, int16_t *y);

/* Neurons of a spiking layer: of the writes u from x, of the reads r from the line's sums, of the outputs h. `total` holds Q15 sums. */
void pdmu_spiking_writes(const pdmu_layer *l, void *state, const int16_t *x, int32_t *sums, int16_t *u);
void pdmu_spiking_reads(const pdmu_layer *l, void *state, const int64_t *total, int16_t *r);
void pdmu_spiking_outputs(const pdmu_layer *l, void *state, int64_t *total, const int16_t *r, const int16_t *x, int32_t *sums, int16_t *h);

#endif
