/* pdmu-conform: reads "pcm.bin" (int16 of this machine's byte order, 16 kHz) and writes "records.bin": every stage's integers, call by
 * call, what the detector makes of the scores, and the state at the end. `deploy/conformance_c.py` compares them with the law's.
 *
 * The same program runs on a PC and on bare metal; files in the place of arguments, because a bare board has none. The stream is cut into
 * chunks of changing length: results must not depend on them.
 */
#include "io.h"
#include "model_data.h"

enum { RECORD_EVENT = 0xF0, RECORD_STATE = 0xF1, CHUNK = PDMU_SAMPLES_PER_STEP };

/* Every record begins with this; no padding, so that it is in the file as it is in memory. */
typedef struct {
    uint8_t stage, index;
    uint16_t bytes;
} record_head;

typedef struct {
    record_head head;
    int32_t label, outcome, onset_step, end_step, peak_sum;
} event_record;

static pdmu_stream_data stream;
static pdmu_detector_state detector;
static pdmu_event events[PDMU_N_LABELS];
static int16_t pcm[CHUNK], scores[PDMU_N_LABELS];
static int32_t out;

static void put(const void *bytes, int32_t n) {
    if (!pdmu_io_write(out, bytes, n)) pdmu_io_exit(1);
}

static void record_stage(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes) {
    const record_head head = {(uint8_t)stage, (uint8_t)index, (uint16_t)bytes};
    (void)context;
    put(&head, (int32_t)sizeof head);
    put(values, bytes);
}

static void record_events(int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        const pdmu_event *e = &events[i];
        const event_record r = {{RECORD_EVENT, 0, sizeof(event_record) - sizeof(record_head)},
                                e->label,
                                e->outcome,
                                (int32_t)e->onset_step,
                                (int32_t)e->end_step,
                                e->peak_sum};
        put(&r, (int32_t)sizeof r);
    }
}

int main(void) {
    const int32_t in = pdmu_io_open("pcm.bin", PDMU_IO_READ);
    const pdmu_trace trace = {record_stage, NULL};
    uint32_t x = 1;
    int32_t got;
    out = pdmu_io_open("records.bin", PDMU_IO_WRITE);
    if (in < 0 || out < 0) pdmu_io_exit(1);
    pdmu_init(&pdmu_model_data, &stream.state);
    pdmu_detector_init(&pdmu_detector_data, &detector);
    do {
        x = 1664525u * x + 1013904223u;
        const int32_t n = 1 + (int32_t)((x >> 16) % CHUNK);
        got = pdmu_io_read(in, pcm, n * (int32_t)sizeof *pcm);
        if (got < 0) pdmu_io_exit(1);
        if (pdmu_process(&pdmu_model_data, &stream.state, &stream.scratch, pcm, got / (int32_t)sizeof *pcm, scores, 1, &trace) == 1) {
            record_events(pdmu_detector_step(&pdmu_detector_data, &detector, scores, events));
        }
        if (got < n * (int32_t)sizeof *pcm) break;
    } while (got > 0);
    record_events(pdmu_detector_finish(&pdmu_detector_data, &detector, events));
    record_stage(NULL, RECORD_STATE, 0, &stream.state, (int32_t)sizeof stream.state);
    pdmu_io_exit(0);
    return 0;
}
