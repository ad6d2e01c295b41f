/* The clock of a RISC-V machine with a CLINT, and the restart of QEMU's "virt". */
#include "machine.h"

#define MTIME_LOW (*(volatile uint32_t *)0x0200BFF8u)
#define MTIME_HIGH (*(volatile uint32_t *)0x0200BFFCu)
#define TEST_DEVICE (*(volatile uint32_t *)0x00100000u)
#define TEST_RESET 0x7777u
#define CLOCK_HZ 10000000u

const uint32_t pdmu_clock_hz = CLOCK_HZ;

void pdmu_clock_start(void) {}

static uint64_t ticks(void) {
    uint32_t high, low;
    do {
        high = MTIME_HIGH;
        low = MTIME_LOW;
    } while (high != MTIME_HIGH);
    return (uint64_t)high << 32 | low;
}

uint32_t pdmu_clock_ticks(void) { return (uint32_t)ticks(); }

uint32_t pdmu_clock_ms(void) { return (uint32_t)(ticks() / (CLOCK_HZ / 1000u)); }

void pdmu_machine_reset(void) {
    TEST_DEVICE = TEST_RESET;
    for (;;) {
    }
}
