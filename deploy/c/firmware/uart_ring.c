/* Bytes that came while a hop was computed, between a UART's interrupt and the main loop of a Cortex-M. */
#include "machine.h"
#include "uart_ring.h"

static volatile uint8_t ring[PDMU_UART_RING];
static volatile uint32_t head, tail;

void uart_ring_put(uint8_t byte) {
    if (head - tail < PDMU_UART_RING) ring[head++ % PDMU_UART_RING] = byte; /* what does not fit is repeated by the protocol */
}

int32_t pdmu_uart_read(void) { return head == tail ? -1 : ring[tail++ % PDMU_UART_RING]; }

void pdmu_machine_wait(void) {
    __asm__ volatile("cpsid i" ::: "memory"); /* so that a byte that comes between the question and the sleep ends the sleep */
    if (head == tail) __asm__ volatile("wfi" ::: "memory");
    __asm__ volatile("cpsie i" ::: "memory");
}
