#include "golden.h"

#define PART (PDMU_GOLDEN_SAMPLES / 5)

static int32_t lcg_noise(uint32_t *x) {
    *x = 1664525u * *x + 1013904223u;
    return (int32_t)(*x >> 16) - 32768;
}

/* A sine-like wave of 16-bit phase, from parabolas. */
static int32_t parabolic_sine(uint32_t phase) {
    const int32_t half = (int32_t)(phase & 0x7FFFu);
    const int32_t y = (half * (32768 - half)) >> 13;
    const int32_t top = y > 32767 ? 32767 : y;
    return (phase & 0x8000u) ? -top : top;
}

/* Numpy's floor division, for a positive divisor. */
static int32_t floor_div(int32_t a, int32_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

void pdmu_golden_pcm(int16_t *pcm) {
    uint32_t x = 1, phase = 0;
    for (int32_t i = 0; i < PART; i++) { /* quiet noise, and beside it the chirp, which has no randomness */
        pcm[i] = (int16_t)(lcg_noise(&x) >> 9);
        phase += 820u + 6u * (uint32_t)i;
        pcm[PART + i] = (int16_t)(parabolic_sine(phase) >> 1);
    }
    for (int32_t i = 0; i < PART; i++) {
        pcm[2 * PART + i] = (int16_t)floor_div(lcg_noise(&x) * (1600 - i % 1600), 1600);
        pcm[3 * PART + i] = (int16_t)((i / 20) % 2 == 0 ? 32767 : -32768);
        pcm[4 * PART + i] = 0;
    }
}
