/* How much of the stack was ever used: painted at the start, read at any time. */
#ifndef PDMU_STACK_H
#define PDMU_STACK_H

#include <stdint.h>

#define PDMU_STACK_PAINT 0xC5C5C5C5u
#define PDMU_STACK_SPARED 64 /* words below the painter's own frame */

extern uint32_t pdmu_stack_limit[], pdmu_stack_top[]; /* of the linker script */

__attribute__((noinline, unused)) static void pdmu_paint_stack(void) {
    const volatile uint32_t *end = (volatile uint32_t *)__builtin_frame_address(0) - PDMU_STACK_SPARED;
    for (volatile uint32_t *word = pdmu_stack_limit; word < end; word++) *word = PDMU_STACK_PAINT;
}

/* Bytes at its far end that nothing has written to. */
__attribute__((unused)) static uint32_t pdmu_stack_free(void) {
    const volatile uint32_t *word = pdmu_stack_limit;
    while (*word == PDMU_STACK_PAINT) word++;
    return (uint32_t)((uintptr_t)word - (uintptr_t)pdmu_stack_limit);
}

#endif
