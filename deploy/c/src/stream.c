/* The calls of the shared library: the runtime bound to the model that is linked in. */
#include "model_data.h"

uint32_t pdmu_abi_version(void) { return PDMU_ABI_VERSION; }

const char *pdmu_bundle_sha256(void) { return pdmu_model_data.bundle_sha256; }

size_t pdmu_stream_size(void) { return sizeof(pdmu_stream_data); }

void pdmu_stream_init(void *stream) { pdmu_init(&pdmu_model_data, &((pdmu_stream_data *)stream)->state); }

int32_t pdmu_n_labels(void) { return pdmu_model_data.n_labels; }

const char *pdmu_label(int32_t index) {
    return index < 0 || index >= pdmu_model_data.n_labels ? NULL : pdmu_model_data.labels[index];
}

int32_t pdmu_samples_per_step(void) { return pdmu_model_data.frames_per_step * pdmu_model_data.frontend.hop; }

int32_t pdmu_stream_process(void *stream, const int16_t *pcm, int32_t n, int16_t *scores, int32_t max_steps) {
    pdmu_stream_data *s = stream;
    return s ? pdmu_process(&pdmu_model_data, &s->state, &s->scratch, pcm, n, scores, max_steps, NULL) : PDMU_ERROR_ARGUMENT;
}

int32_t pdmu_stream_trace(void *stream, const int16_t *pcm, int32_t n, int16_t *scores, int32_t max_steps, pdmu_emit emit, void *context) {
    pdmu_stream_data *s = stream;
    if (!s || !emit) return PDMU_ERROR_ARGUMENT;
    const pdmu_trace trace = {emit, context};
    return pdmu_process(&pdmu_model_data, &s->state, &s->scratch, pcm, n, scores, max_steps, &trace);
}
