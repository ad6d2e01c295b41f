/* The clock of a Cortex-M: SysTick counts the processor's clock down, its interrupt counts the periods and wakes an idle processor. */
#include "machine.h"

#ifndef PDMU_CLOCK_HZ
#define PDMU_CLOCK_HZ 25000000u
#endif
#define PERIOD (PDMU_CLOCK_HZ / 100u) /* what waits for time, waits for 10 ms at most */

typedef struct {
    volatile uint32_t control, reload, value;
} systick;

#define SYSTICK ((systick *)0xE000E010u)
#define AIRCR (*(volatile uint32_t *)0xE000ED0Cu)
enum { ENABLE = 1, INTERRUPT = 2, PROCESSOR_CLOCK = 4 };
#define RESET_REQUEST 0x05FA0004u

const uint32_t pdmu_clock_hz = PDMU_CLOCK_HZ;

static volatile uint32_t periods;

void pdmu_tick(void);

void pdmu_tick(void) { periods++; }

void pdmu_clock_start(void) {
    SYSTICK->reload = PERIOD - 1u;
    SYSTICK->value = 0;
    SYSTICK->control = ENABLE | INTERRUPT | PROCESSOR_CLOCK;
}

static uint64_t ticks(void) {
    static uint64_t latest;
    uint32_t before, left;
    do { /* a period that ends between the two readings is seen by the second */
        before = periods;
        left = SYSTICK->value;
    } while (before != periods);
    const uint64_t now = (uint64_t)before * PERIOD + (left ? PERIOD - left : 0); /* the interrupt comes when the counter reaches 0 */
    if (now > latest) latest = now; /* where the interrupt is late, time stands, but never goes back */
    return latest;
}

uint32_t pdmu_clock_ticks(void) { return (uint32_t)ticks(); }

uint32_t pdmu_clock_ms(void) { return (uint32_t)(ticks() / (PDMU_CLOCK_HZ / 1000u)); }

void pdmu_machine_reset(void) {
    __asm__ volatile("dsb" ::: "memory");
    AIRCR = RESET_REQUEST;
    for (;;) {
    }
}
