/* PCM in, scores out: cuts the stream into windows and feeds the front end and the network. */
#include <string.h>

#include "pdmu_internal.h"
#include "pdmu_kernels.h"

static int32_t samples_per_step(const pdmu_model *model) { return model->frames_per_step * model->frontend.hop; }

void pdmu_init(const pdmu_model *model, void *state) {
    memset(state, 0, model->state_bytes);
    int64_t *smoother = pdmu_at(state, model->state_smoother);
    for (int32_t b = 0; b < model->frontend.n_mels; b++) smoother[b] = (int64_t)model->frontend.floor * 256;
    int32_t *counters = pdmu_at(state, model->state_counters);
    counters[PDMU_COUNT_HISTORY] = model->frontend.window - model->frontend.hop;
    pdmu_model_init(model, state);
}

int32_t pdmu_process(const pdmu_model *model, void *state, void *scratch, const int16_t *pcm, int32_t n, int16_t *scores,
                     int32_t max_steps, const pdmu_trace *trace) {
    if (!state || !scratch || !scores || n < 0 || max_steps < 0 || (n > 0 && !pcm)) return PDMU_ERROR_ARGUMENT;
    int32_t *counters = pdmu_at(state, model->state_counters);
    const int64_t pending = (int64_t)counters[PDMU_COUNT_PENDING] + n;
    if (pending / samples_per_step(model) > max_steps) return PDMU_ERROR_SPACE;
    counters[PDMU_COUNT_PENDING] = (int32_t)(pending % samples_per_step(model));

    const pdmu_frontend *fe = &model->frontend;
    int16_t *history = pdmu_at(state, model->state_history), *features = pdmu_at(scratch, model->scratch_features);
    int32_t fill = counters[PDMU_COUNT_HISTORY], steps = 0;
    while (n > 0) {
        const int32_t take = n < fe->window - fill ? n : fe->window - fill;
        pdmu_copy(history + fill, pcm, take);
        pcm += take;
        n -= take;
        fill += take;
        if (fill < fe->window) break;
        pdmu_frontend_frame(fe, history, pdmu_at(state, model->state_smoother), pdmu_at(scratch, model->scratch_spectrum), features, trace);
        fill = fe->window - fe->hop;
        pdmu_copy(history, history + fe->hop, fill);
        steps += pdmu_model_frame(model, state, scratch, features, scores + steps * model->n_labels, trace);
    }
    counters[PDMU_COUNT_HISTORY] = fill;
    return steps;
}
