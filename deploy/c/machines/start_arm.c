/* Start-up of a Cortex-M: vectors, data and bss, coprocessors, then main. The linker script gives the symbols. */
#include <stdint.h>

int main(void);

extern uint32_t pdmu_data_load[], pdmu_data_start[], pdmu_data_end[], pdmu_bss_start[], pdmu_bss_end[], pdmu_stack_limit[], pdmu_stack_top[];

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define CP10_CP11_FULL (0xFu << 20)

void pdmu_reset(void);
void pdmu_fault(void);
void pdmu_tick(void);
void pdmu_interrupt(void);

/* Nothing goes on after a fault: a watchdog, or whoever watches, sees the silence. */
__attribute__((weak)) void pdmu_fault(void) {
    for (;;) {
    }
}

__attribute__((weak)) void pdmu_tick(void) {}

/* All of the machine's own interrupts come here: a firmware takes one alone. */
__attribute__((weak)) void pdmu_interrupt(void) { pdmu_fault(); }

void pdmu_reset(void) {
    const uint32_t *from = pdmu_data_load;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= CP10_CP11_FULL;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    for (uint32_t *to = pdmu_data_start; to < pdmu_data_end; to++) *to = *from++;
    for (uint32_t *to = pdmu_bss_start; to < pdmu_bss_end; to++) *to = 0;
    (void)main();
    pdmu_fault();
}

typedef void (*vector)(void);

/* The first entry is the stack, which is no function: a union keeps the table plain C. */
typedef union {
    uint32_t *stack;
    vector handler;
} entry;

#define FAULT {.handler = pdmu_fault}
#define NONE {.handler = 0}
#define FOUR {.handler = pdmu_interrupt}, {.handler = pdmu_interrupt}, {.handler = pdmu_interrupt}, {.handler = pdmu_interrupt}
#define SIXTEEN FOUR, FOUR, FOUR, FOUR

/* The processor's own sixteen, and 48 of the machine: all that the boards here use. */
__attribute__((section(".vectors"), used)) static const entry vectors[64] = {
    {.stack = pdmu_stack_top}, {.handler = pdmu_reset},
    FAULT, FAULT, FAULT, FAULT, FAULT, NONE, NONE, NONE, NONE, FAULT, FAULT, NONE, FAULT,
    {.handler = pdmu_tick},
    SIXTEEN, SIXTEEN, SIXTEEN,
};
