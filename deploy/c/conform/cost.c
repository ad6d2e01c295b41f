/* What the runtime costs: "pcm.bin" through the whole chain, hop by hop, as a firmware does it. Instructions are counted from outside, by the
 * addresses of the functions at which a part begins (benchmarks/mcu); "records.bin" gets the most stack that was used, in bytes.
 */
#include "io.h"
#include "model_data.h"
#include "stack.h"

enum { HOP = 256 };

static pdmu_stream_data stream;
static pdmu_detector_state detector;
static pdmu_event events[PDMU_N_LABELS];
static int16_t pcm[HOP], scores[PDMU_N_LABELS];

void pdmu_cost_rest(void);

/* Whatever runs from here on is nobody's part. */
__attribute__((noinline)) void pdmu_cost_rest(void) { __asm__ volatile("" ::: "memory"); }

int main(void) {
    pdmu_paint_stack();
    const int32_t in = pdmu_io_open("pcm.bin", PDMU_IO_READ), out = pdmu_io_open("records.bin", PDMU_IO_WRITE);
    if (in < 0 || out < 0) pdmu_io_exit(1);
    pdmu_init(&pdmu_model_data, &stream.state);
    pdmu_detector_init(&pdmu_detector_data, &detector);
    while (pdmu_io_read(in, pcm, (int32_t)sizeof pcm) == (int32_t)sizeof pcm) {
        if (pdmu_process(&pdmu_model_data, &stream.state, &stream.scratch, pcm, HOP, scores, 1, NULL) == 1) {
            (void)pdmu_detector_step(&pdmu_detector_data, &detector, scores, events);
        }
        pdmu_cost_rest();
    }
    const uint32_t used = (uint32_t)((uintptr_t)pdmu_stack_top - (uintptr_t)pdmu_stack_limit) - pdmu_stack_free();
    if (!pdmu_io_write(out, &used, (int32_t)sizeof used)) pdmu_io_exit(1);
    pdmu_io_exit(0);
    return 0;
}
