/* The program that benchmarks/mcu measures: "pcm.bin" (int16, 16 kHz) through the whole chain, a hop a call. The scores go to "scores.bin", the
 * deepest stack of a hop, in bytes, as int32 to "stack.bin". Where a section of the chain begins is told by the runtime's own functions, where
 * the chain ends by bench_idle; all reading, writing and painting lies outside. */
#include "io.h"
#include "model_data.h"

enum { PAINTED = 1024, PAINT = 0x5A5A5A5A };

extern volatile uint32_t pdmu_stack_top[], pdmu_stack_limit[];

/* Apart, so that the image's symbols tell their sizes. */
static pdmu_model_state bench_state;
static pdmu_model_scratch bench_scratch;
static pdmu_detector_state bench_detector;

static pdmu_event events[PDMU_N_LABELS];
static int16_t pcm[PDMU_SAMPLES_PER_STEP], scores[PDMU_N_LABELS];

__attribute__((noinline)) void bench_idle(void) { __asm__ volatile("" ::: "memory"); }

static volatile uint32_t *lowest_painted(void) {
    return pdmu_stack_top - pdmu_stack_limit > PAINTED ? pdmu_stack_top - PAINTED : pdmu_stack_limit;
}

/* `word` is on the stack: what lies well below it is free. */
static void paint(const volatile uint32_t *word) {
    for (volatile uint32_t *p = lowest_painted(); (uintptr_t)p + 64 < (uintptr_t)word; p++) *p = PAINT;
}

/* From the top of the stack, with what start-up and main hold. */
static int32_t depth_bytes(void) {
    const volatile uint32_t *p = lowest_painted();
    while (*p == PAINT) p++;
    return (int32_t)((uintptr_t)pdmu_stack_top - (uintptr_t)p);
}

static __attribute__((noinline)) int32_t hop(int32_t n) {
    const int32_t steps = pdmu_process(&pdmu_model_data, &bench_state, &bench_scratch, pcm, n, scores, 1, NULL);
    if (steps == 1) (void)pdmu_detector_step(&pdmu_detector_data, &bench_detector, scores, events);
    bench_idle();
    return steps;
}

int main(void) {
    const int32_t in = pdmu_io_open("pcm.bin", PDMU_IO_READ), out = pdmu_io_open("scores.bin", PDMU_IO_WRITE);
    const int32_t n = pdmu_model_data.frontend.hop, bytes = n * (int32_t)sizeof *pcm;
    volatile uint32_t word = 0;
    int32_t deepest = 0;
    if (in < 0 || out < 0) pdmu_io_exit(1);
    pdmu_init(&pdmu_model_data, &bench_state);
    pdmu_detector_init(&pdmu_detector_data, &bench_detector);
    while (pdmu_io_read(in, pcm, bytes) == bytes) {
        paint(&word);
        const int32_t steps = hop(n), depth = depth_bytes();
        if (depth > deepest) deepest = depth;
        if (steps == 1 && !pdmu_io_write(out, scores, (int32_t)sizeof scores)) pdmu_io_exit(1);
    }
    const int32_t report = pdmu_io_open("stack.bin", PDMU_IO_WRITE);
    if (report < 0 || !pdmu_io_write(report, &deepest, (int32_t)sizeof deepest)) pdmu_io_exit(1);
    pdmu_io_exit(0);
    return 0;
}
