#include "pdmu_listener.h"

#include <stdio.h>
#include <string.h>

enum { LABEL_BYTES = 128, NUMBER_BYTES = 32 };

void pdmu_listener_init(pdmu_listener *listener) {
    pdmu_init(&pdmu_model_data, &listener->stream.state);
    pdmu_detector_init(&pdmu_detector_data, &listener->detector);
}

/* At most one step of samples, so that a call completes at most one step. */
static int32_t take(pdmu_listener *l, const int16_t *pcm, int32_t n) {
    return pdmu_process(&pdmu_model_data, &l->stream.state, &l->stream.scratch, pcm, n, l->scores, 1, NULL);
}

void pdmu_listen(pdmu_listener *l, const int16_t *pcm, int32_t n, pdmu_found found) {
    for (int32_t at = 0; at < n; at += PDMU_SAMPLES_PER_STEP) {
        const int32_t left = n - at;
        if (take(l, pcm + at, left < PDMU_SAMPLES_PER_STEP ? left : PDMU_SAMPLES_PER_STEP) != 1) continue;
        const int32_t count = pdmu_detector_step(&pdmu_detector_data, &l->detector, l->scores, l->events);
        for (int32_t i = 0; i < count; i++) found(&l->events[i]);
    }
}

int32_t pdmu_listener_self_test(pdmu_listener *l, const int16_t *golden_pcm) {
    int32_t different = -1;
    pdmu_listener_init(l);
    for (int32_t step = 0; step < PDMU_GOLDEN_STEPS && different < 0; step++) {
        const int32_t done = take(l, golden_pcm + step * PDMU_SAMPLES_PER_STEP, PDMU_SAMPLES_PER_STEP);
        if (done != 1 || memcmp(l->scores, pdmu_golden_scores[step], sizeof l->scores) != 0) different = step;
    }
    pdmu_listener_init(l);
    return different;
}

static void json_string(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text && n + 2 < size; text++) {
        if ((unsigned char)*text < 32) continue;
        if (*text == '"' || *text == '\\') out[n++] = '\\';
        out[n++] = *text;
    }
    out[n] = '\0';
}

/* num / den rounded to four decimals; by integers, because the printf of small C libraries has no floats. */
static void decimal(int64_t num, int64_t den, char *out, size_t size) {
    const int64_t rounded = (num * 10000 + den / 2) / den;
    snprintf(out, size, "%ld.%04ld", (long)(rounded / 10000), (long)(rounded % 10000));
}

void pdmu_event_line(const pdmu_event *event, char *line) {
    static const char *const outcomes[] = {"detected", "cut", "too_short", "refractory"};
    char label[LABEL_BYTES], start[NUMBER_BYTES], duration[NUMBER_BYTES], score[NUMBER_BYTES];
    json_string(pdmu_model_data.labels[event->label], label, sizeof label);
    decimal(event->onset_step * PDMU_SAMPLES_PER_STEP, PDMU_SAMPLE_RATE_HZ, start, sizeof start);
    decimal((event->end_step - event->onset_step) * PDMU_SAMPLES_PER_STEP, PDMU_SAMPLE_RATE_HZ, duration, sizeof duration);
    decimal(event->peak_sum, (int64_t)pdmu_detector_data.smooth_steps * 32768, score, sizeof score);
    snprintf(line, PDMU_EVENT_LINE_BYTES, "{\"label\": \"%s\", \"t_start_s\": %s, \"dur_s\": %s, \"score\": %s, \"outcome\": \"%s\"}", label,
             start, duration, score, outcomes[event->outcome]);
}
