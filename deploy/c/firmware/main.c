/* The firmware of a board: bytes of the serial line and, where one is built in, a clip of sound go to pdmu_board, whose answers go back.
 *
 * One turn of the loop takes at most a frame's bytes and does at most a hop of audio. Only FINISH, STATE and, under TRACE, PCM do more: what
 * waits for the runtime, at most PDMU_BOARD_PCM_SAMPLES of audio, and the events kept. A watchdog fed once a turn needs a period above that.
 * A microphone takes the clip's place: its driver fills a ring by DMA, and `next_samples` hands over what is there.
 */
#include "machine.h"
#include "pdmu_board.h"
#include "stack.h"

#ifndef PDMU_BOARD_NAME
#define PDMU_BOARD_NAME "board"
#endif
#ifndef PDMU_INSTRUCTIONS_PER_TICK
#define PDMU_INSTRUCTIONS_PER_TICK 0
#endif

static pdmu_board board;

__attribute__((weak)) void pdmu_machine_watchdog(void) {}

static void write_bytes(void *context, const uint8_t *bytes, size_t n) {
    (void)context;
    for (size_t i = 0; i < n; i++) pdmu_uart_write(bytes[i]);
}

static void write_text(const char *text) {
    while (*text) pdmu_uart_write((uint8_t)*text++);
}

static uint32_t milliseconds(void *context) {
    (void)context;
    return pdmu_clock_ms();
}

static uint32_t ticks(void *context) {
    (void)context;
    return pdmu_clock_ticks();
}

static void reboot(void *context) {
    (void)context;
    pdmu_machine_reset();
}

static uint32_t stack_free(void *context) {
    (void)context;
    return pdmu_stack_free();
}

#if defined(PDMU_CLIP)
#include "clip.h" /* generated: int16_t pdmu_clip[] */
#define CLIP_SAMPLES ((uint32_t)(sizeof pdmu_clip / sizeof *pdmu_clip))

static uint32_t clip_at, clip_given, clip_start_ms;

static void select_source(void *context, uint8_t source) {
    (void)context;
    (void)source;
    clip_at = clip_given = 0;
    clip_start_ms = pdmu_clock_ms();
}

/* As many samples as time has brought, over and over: a minute's backlog at most after a long stall. */
static int32_t next_samples(void *context, int16_t *pcm, int32_t n) {
    const uint32_t due = (pdmu_clock_ms() - clip_start_ms) * (PDMU_SAMPLE_RATE_HZ / 1000u) - clip_given;
    (void)context;
    if (due > 60u * PDMU_SAMPLE_RATE_HZ) clip_given += due - 60u * PDMU_SAMPLE_RATE_HZ;
    if ((uint32_t)n > due) n = (int32_t)due;
    for (int32_t i = 0; i < n; i++) {
        pcm[i] = pdmu_clip[clip_at];
        clip_at = clip_at + 1 == CLIP_SAMPLES ? 0 : clip_at + 1;
    }
    clip_given += (uint32_t)n;
    return n;
}
#endif

int main(void) {
    const pdmu_board_port port = {
        .board = PDMU_BOARD_NAME,
        .firmware = PDMU_BOARD_VERSION,
        .write = write_bytes,
        .milliseconds = milliseconds,
        .reboot = reboot,
        .ticks = ticks,
        .tick_hz = pdmu_clock_hz,
        .instructions_per_tick = PDMU_INSTRUCTIONS_PER_TICK,
        .stack_free = stack_free,
#if defined(PDMU_CLIP)
        .has_clip = 1,
        .source = PDMU_BOARD_CLIP,
        .select = select_source,
        .samples = next_samples,
#endif
    };
    pdmu_paint_stack();
    pdmu_uart_start();
    pdmu_clock_start();
    write_text("PDMU " PDMU_BOARD_VERSION " on " PDMU_BOARD_NAME ", " PDMU_MODEL_NAME " " PDMU_MODEL_VERSION "\n");
    pdmu_board_init(&board, &port);
    for (;;) {
        int32_t byte;
        for (uint32_t n = 0; n < PDMU_FRAME_WIRE && (byte = pdmu_uart_read()) >= 0; n++) pdmu_board_byte(&board, (uint8_t)byte);
        if (!pdmu_board_poll(&board)) pdmu_machine_wait();
        pdmu_machine_watchdog();
    }
}
