/* Chunks on standard input (int32 count, then that many samples) through pdmu_listener; events as lines, after a line of the self-test. */
#include <stdio.h>

#include "golden.h"
#include "pdmu_listener.h"

static pdmu_listener listener;
static int16_t pcm[PDMU_GOLDEN_SAMPLES];

static void print_event(const pdmu_event *event) {
    char line[PDMU_EVENT_LINE_BYTES];
    pdmu_event_line(event, line);
    puts(line);
}

int main(void) {
    int32_t n;
    pdmu_golden_pcm(pcm);
    printf("%ld\n", (long)pdmu_listener_self_test(&listener, pcm));
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        if (n < 0 || n > PDMU_GOLDEN_SAMPLES || fread(pcm, sizeof *pcm, (size_t)n, stdin) != (size_t)n) return 1;
        pdmu_listen(&listener, pcm, n, print_event);
    }
    return 0;
}
