/* libFuzzer on the PCM path: a stream gives the same stages, scores and state however it is cut, and refused calls leave it as it was.
 *
 * Input: eight bytes that say how long the chunks are, in turn, then samples. Built and run by deploy/fuzz.py, with sanitizers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_data.h"

enum { CUTS = 8, MAX_SAMPLES = 1 << 14, MAX_STEPS = MAX_SAMPLES / PDMU_SAMPLES_PER_STEP + 1 };

typedef struct {
    pdmu_stream_data stream;
    int16_t scores[MAX_STEPS][PDMU_N_LABELS];
    int32_t steps;
    uint64_t stages; /* a hash of every integer on the way */
} run;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "pdmu fuzz: %s\n", what);
    abort();
}

/* FNV-1a */
static void hash_stage(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes) {
    uint64_t h = *(uint64_t *)context ^ (uint64_t)(stage * 256 + index);
    for (int32_t i = 0; i < bytes; i++) h = (h ^ ((const uint8_t *)values)[i]) * UINT64_C(1099511628211);
    *(uint64_t *)context = h;
}

static void begin(run *r) {
    memset(r, 0, sizeof *r);
    memset(&r->stream, 0xA5, sizeof r->stream); /* pdmu_init owes nothing to what was there */
    pdmu_init(&pdmu_model_data, &r->stream.state);
}

static void feed(run *r, const int16_t *pcm, int32_t n) {
    const pdmu_trace trace = {hash_stage, &r->stages};
    const int32_t got = pdmu_process(&pdmu_model_data, &r->stream.state, &r->stream.scratch, pcm, n, r->scores[r->steps],
                                     MAX_STEPS - r->steps, &trace);
    require(got >= 0, "a call with room was refused");
    r->steps += got;
}

/* Without room, with a negative count or without samples, nothing may change. */
static void refuse(run *r, const int16_t *pcm) {
    static pdmu_model_state before;
    int16_t none[1];
    memcpy(&before, &r->stream.state, sizeof before);
    require(pdmu_process(&pdmu_model_data, &r->stream.state, &r->stream.scratch, pcm, PDMU_SAMPLES_PER_STEP, none, 0, NULL) == PDMU_ERROR_SPACE,
            "a step was taken without room for it");
    require(pdmu_process(&pdmu_model_data, &r->stream.state, &r->stream.scratch, pcm, -1, none, 1, NULL) == PDMU_ERROR_ARGUMENT,
            "a negative count was taken");
    require(pdmu_process(&pdmu_model_data, &r->stream.state, &r->stream.scratch, NULL, 1, none, 1, NULL) == PDMU_ERROR_ARGUMENT,
            "samples at null were taken");
    require(memcmp(&before, &r->stream.state, sizeof before) == 0, "a refused call changed the state");
}

static void detect(const run *r) {
    static pdmu_detector_state detector;
    static pdmu_event events[PDMU_N_LABELS];
    int64_t ended[PDMU_N_LABELS] = {0};
    pdmu_detector_init(&pdmu_detector_data, &detector);
    for (int32_t step = 0; step <= r->steps; step++) {
        const int32_t found = step < r->steps ? pdmu_detector_step(&pdmu_detector_data, &detector, r->scores[step], events)
                                              : pdmu_detector_finish(&pdmu_detector_data, &detector, events);
        for (int32_t i = 0; i < found; i++) {
            require(events[i].onset_step >= ended[events[i].label], "an event begins before the last one of its label ended");
            require(events[i].end_step > events[i].onset_step && events[i].end_step <= r->steps, "an event lies outside the stream");
            ended[events[i].label] = events[i].end_step;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static run whole, cut;
    static int16_t pcm[MAX_SAMPLES];
    if (size < CUTS) return 0;
    const size_t room = (size - CUTS) / 2;
    const int32_t n = room < MAX_SAMPLES ? (int32_t)room : MAX_SAMPLES;
    memcpy(pcm, data + CUTS, (size_t)n * sizeof *pcm);

    begin(&whole);
    feed(&whole, pcm, n);
    begin(&cut);
    for (int32_t at = 0, turn = 0, idle = 0; at < n; turn++) {
        const int32_t byte = data[turn % CUTS], wanted = idle == CUTS ? n : byte < 128 ? byte : (byte - 127) * 16;
        const int32_t take = wanted < n - at ? wanted : n - at;
        if (turn % 16 == 0) refuse(&cut, pcm);
        feed(&cut, pcm + at, take);
        idle = take ? 0 : idle + 1;
        at += take;
    }
    require(whole.steps == n / PDMU_SAMPLES_PER_STEP, "samples and steps do not agree");
    require(whole.steps == cut.steps && memcmp(whole.scores, cut.scores, sizeof whole.scores) == 0, "scores depend on the chunks");
    require(whole.stages == cut.stages, "a stage depends on the chunks");
    require(memcmp(&whole.stream.state, &cut.stream.state, sizeof whole.stream.state) == 0, "the state depends on the chunks");
    for (int32_t step = 0; step < whole.steps; step++) {
        for (int32_t i = 0; i < PDMU_N_LABELS; i++) require(whole.scores[step][i] >= 0, "a negative score");
    }
    detect(&whole);
    return 0;
}
