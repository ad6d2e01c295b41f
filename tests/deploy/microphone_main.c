/* A board with a microphone on standard input and output: requests from the one, then the microphone's samples, chunk by chunk (int32 count, then
 * so many samples), from the file named, all worked through before the next; and a HEALTH at the end. */
#include <stdio.h>

#include "pdmu_microphone.h"

enum { CHUNK_SAMPLES = 8192, HEALTH_MS = 10000 };

static uint32_t now_ms;
static pdmu_microphone microphone;
static pdmu_board board;
static int16_t pcm[CHUNK_SAMPLES];

static void write_bytes(void *context, const uint8_t *bytes, size_t n) {
    (void)context;
    fwrite(bytes, 1, n, stdout);
}

static uint32_t milliseconds(void *context) {
    (void)context;
    return now_ms;
}

static void work(void) {
    while (pdmu_board_poll(&board)) {
    }
}

int main(int argc, char **argv) {
    pdmu_board_port port = {.board = "host", .firmware = PDMU_BOARD_VERSION, .write = write_bytes, .milliseconds = milliseconds, .ticks = milliseconds};
    FILE *chunks = argc == 2 ? fopen(argv[1], "rb") : NULL;
    int32_t n;
    int byte;
    if (!chunks) return 1;
    pdmu_microphone_lend(&microphone, &port);
    pdmu_board_init(&board, &port);
    while ((byte = getchar()) != EOF) pdmu_board_byte(&board, (uint8_t)byte);
    work();
    while (fread(&n, sizeof n, 1, chunks) == 1) {
        if (n < 0 || n > CHUNK_SAMPLES || fread(pcm, sizeof *pcm, (size_t)n, chunks) != (size_t)n) return 1;
        pdmu_microphone_put(&microphone, pcm, n);
        work();
    }
    now_ms = HEALTH_MS;
    (void)pdmu_board_poll(&board);
    return fclose(chunks) == 0 ? 0 : 1;
}
