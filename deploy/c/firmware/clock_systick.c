/* The clock of a Cortex-M: SysTick counts 24 bits of the processor's clock down, its interrupt the rest. */
#include "machine.h"

#ifndef PDMU_CLOCK_HZ
#define PDMU_CLOCK_HZ 25000000u
#endif

typedef struct {
    volatile uint32_t control, reload, value;
} systick;

#define SYSTICK ((systick *)0xE000E010u)
#define AIRCR (*(volatile uint32_t *)0xE000ED0Cu)
enum { ENABLE = 1, INTERRUPT = 2, PROCESSOR_CLOCK = 4 };
#define RELOAD 0x00FFFFFFu
#define RESET_REQUEST 0x05FA0004u

const uint32_t pdmu_clock_hz = PDMU_CLOCK_HZ;

static volatile uint32_t wraps;

void pdmu_tick(void);

void pdmu_tick(void) { wraps++; }

void pdmu_clock_start(void) {
    SYSTICK->reload = RELOAD;
    SYSTICK->value = 0;
    SYSTICK->control = ENABLE | INTERRUPT | PROCESSOR_CLOCK;
}

static uint64_t ticks(void) {
    uint32_t before, low;
    do { /* a wrap between the two readings is seen by the second */
        before = wraps;
        low = RELOAD - SYSTICK->value;
    } while (before != wraps);
    return (uint64_t)before * (RELOAD + 1u) + low;
}

uint32_t pdmu_clock_ticks(void) { return (uint32_t)ticks(); }

uint32_t pdmu_clock_ms(void) { return (uint32_t)(ticks() / (PDMU_CLOCK_HZ / 1000u)); }

void pdmu_machine_reset(void) {
    __asm__ volatile("dsb" ::: "memory");
    AIRCR = RESET_REQUEST;
    for (;;) {
    }
}
