/* The clock of a RISC-V machine with a CLINT, what ends its sleep (clock and PLIC), and the restart of QEMU's "virt". */
#include "machine.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define MTIMECMP_LOW REGISTER(0x02004000u)
#define MTIMECMP_HIGH REGISTER(0x02004004u)
#define MTIME_LOW REGISTER(0x0200BFF8u)
#define MTIME_HIGH REGISTER(0x0200BFFCu)
#define UART_IRQ 10u
#define PLIC_PRIORITY REGISTER(0x0C000000u + 4u * UART_IRQ)
#define PLIC_ENABLE REGISTER(0x0C002000u)
#define PLIC_CLAIM REGISTER(0x0C200004u)
#define TIMER_AND_EXTERNAL (1u << 7 | 1u << 11)
#define TEST_DEVICE REGISTER(0x00100000u)
#define TEST_RESET 0x7777u
#define CLOCK_HZ 10000000u

const uint32_t pdmu_clock_hz = CLOCK_HZ;

static uint64_t ticks(void) {
    uint32_t high, low;
    do {
        high = MTIME_HIGH;
        low = MTIME_LOW;
    } while (high != MTIME_HIGH);
    return (uint64_t)high << 32 | low;
}

/* The interrupts stay masked (mstatus.MIE): pending, they end a wfi, and nothing is interrupted. */
void pdmu_clock_start(void) {
    PLIC_PRIORITY = 1;
    PLIC_ENABLE = 1u << UART_IRQ;
    __asm__ volatile(".option push\n .option arch, +zicsr\n csrs mie, %0\n .option pop" ::"r"(TIMER_AND_EXTERNAL));
}

uint32_t pdmu_clock_ticks(void) { return (uint32_t)ticks(); }

uint32_t pdmu_clock_ms(void) { return (uint32_t)(ticks() / (CLOCK_HZ / 1000u)); }

void pdmu_machine_wait(void) {
    const uint64_t end = ticks() + CLOCK_HZ / 100u;
    MTIMECMP_HIGH = UINT32_MAX; /* no moment in between ends it */
    MTIMECMP_LOW = (uint32_t)end;
    MTIMECMP_HIGH = (uint32_t)(end >> 32);
    __asm__ volatile("wfi" ::: "memory");
    const uint32_t interrupt = PLIC_CLAIM;
    if (interrupt) PLIC_CLAIM = interrupt; /* it comes again while the UART has bytes */
}

void pdmu_machine_reset(void) {
    TEST_DEVICE = TEST_RESET;
    for (;;) {
    }
}
