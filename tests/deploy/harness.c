/* Runs the C runtime under the tests' control, as its own process so that sanitizers can watch it.
 *
 *   trace:  standard input holds chunks (int32 count, then int16 samples); standard output gets a record for every stage
 *           (int32 stage, index, bytes, then the values), the scores as the caller receives them, as stage 100, and the state that is
 *           left, as stage 101.
 *   detect: standard input holds scores, int16 [steps][labels]; standard output gets int64 records label, outcome, onset, end, peak.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_data.h"

static void put(const void *values, size_t bytes) {
    if (fwrite(values, 1, bytes, stdout) != bytes) exit(3);
}

static void record(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes) {
    const int32_t head[3] = {stage, index, bytes};
    (void)context;
    put(head, sizeof head);
    put(values, (size_t)bytes);
}

static void *allocate(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) exit(3);
    memset(p, 0x5A, bytes); /* the runtime may count on no value it did not write */
    return p;
}

static int trace(void) {
    void *stream = allocate(pdmu_stream_size());
    int32_t n, pending = 0;
    pdmu_stream_init(stream);
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        int16_t *pcm = allocate((size_t)n * sizeof *pcm); /* exact sizes: one too many is seen */
        if (fread(pcm, sizeof *pcm, (size_t)n, stdin) != (size_t)n) return 3;
        const int32_t steps = (pending + n) / pdmu_samples_per_step();
        pending = (pending + n) % pdmu_samples_per_step();
        int16_t *scores = allocate((size_t)(steps * pdmu_n_labels()) * sizeof *scores);
        if (steps > 0 && pdmu_stream_trace(stream, pcm, n, scores, steps - 1, record, NULL) != PDMU_ERROR_SPACE) return 4;
        if (pdmu_stream_trace(stream, pcm, n, scores, steps, record, NULL) != steps) return 5;
        record(NULL, 100, 0, scores, steps * pdmu_n_labels() * (int32_t)sizeof *scores);
        free(scores);
        free(pcm);
    }
    record(NULL, 101, 0, &((pdmu_stream_data *)stream)->state, (int32_t)sizeof(pdmu_model_state));
    free(stream);
    return 0;
}

static void put_events(const pdmu_event *events, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        const pdmu_event *e = &events[i];
        const int64_t row[5] = {e->label, e->outcome, e->onset_step, e->end_step, e->peak_sum};
        put(row, sizeof row);
    }
}

static int detect(void) {
    pdmu_detector_state *state = allocate(sizeof *state);
    int16_t scores[PDMU_N_LABELS];
    pdmu_event events[PDMU_N_LABELS];
    pdmu_detector_init(&pdmu_detector_data, state);
    while (fread(scores, sizeof scores, 1, stdin) == 1) put_events(events, pdmu_detector_step(&pdmu_detector_data, state, scores, events));
    put_events(events, pdmu_detector_finish(&pdmu_detector_data, state, events));
    free(state);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "trace") == 0) return trace();
    if (argc == 2 && strcmp(argv[1], "detect") == 0) return detect();
    return 2;
}
