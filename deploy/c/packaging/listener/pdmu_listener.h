/* PCM of any length in, events out: the model that is linked in and its detector, for programs with a microphone and a text line. */
#ifndef PDMU_LISTENER_H
#define PDMU_LISTENER_H

#include "model_data.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PDMU_EVENT_LINE_BYTES 320 /* a label beyond 127 bytes is cut */

typedef struct {
    pdmu_stream_data stream;
    pdmu_detector_state detector;
    pdmu_event events[PDMU_N_LABELS];
    int16_t scores[PDMU_N_LABELS];
} pdmu_listener;

typedef void (*pdmu_found)(const pdmu_event *event);

void pdmu_listener_init(pdmu_listener *listener);

/* Take n samples of 16 kHz mono PCM, cut anywhere; `found` is called for every event, rejected ones too, before this returns. */
void pdmu_listen(pdmu_listener *listener, const int16_t *pcm, int32_t n, pdmu_found found);

/* An event as one line of JSON, without its line end: what pdmu-host --events prints. `line` holds PDMU_EVENT_LINE_BYTES. */
void pdmu_event_line(const pdmu_event *event, char *line);

/* Replay the golden signal, pdmu_golden_pcm of golden.h, and compare with the law's scores in model_golden.c.
 * Returns -1 when all are equal, else the first step that is not. The listener is left as after pdmu_listener_init. */
int32_t pdmu_listener_self_test(pdmu_listener *listener, const int16_t *golden_pcm);

#ifdef __cplusplus
}
#endif

#endif
