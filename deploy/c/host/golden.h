/* The golden signal, pdmu/golden.py in C: a second of PCM made of integers alone. */
#ifndef PDMU_GOLDEN_H
#define PDMU_GOLDEN_H

#include <stdint.h>

#define PDMU_GOLDEN_SAMPLES 16000

/* pcm holds PDMU_GOLDEN_SAMPLES. */
void pdmu_golden_pcm(int16_t *pcm);

#endif
