/* Samples between a microphone's driver and pdmu_board: the driver puts them from its interrupt or thread, the board takes them from the main
 * loop. Static and zeroed, it is ready. */
#ifndef PDMU_MICROPHONE_H
#define PDMU_MICROPHONE_H

#include "pdmu_board.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef PDMU_MICROPHONE_SAMPLES
#define PDMU_MICROPHONE_SAMPLES 4096u /* a power of two: a quarter of a second */
#endif

typedef struct {
    int16_t pcm[PDMU_MICROPHONE_SAMPLES];    /* a ring */
    uint32_t put, taken, dropped, listening; /* the first three count samples; each has one writer */
} pdmu_microphone;

/* Fill in what a port says of a microphone, `microphone` being its context: the board then hears it from its start. */
void pdmu_microphone_lend(pdmu_microphone *microphone, pdmu_board_port *port);

/* The driver has n more samples of 16 kHz mono PCM. Those that find no room are lost and counted; those that come while the board hears
 * something else are not wanted. */
void pdmu_microphone_put(pdmu_microphone *microphone, const int16_t *pcm, int32_t n);

#ifdef __cplusplus
}
#endif

#endif
