/* For the interrupt of a Cortex-M's UART. */
#ifndef PDMU_UART_RING_H
#define PDMU_UART_RING_H

#include <stdint.h>

#ifndef PDMU_UART_RING
#define PDMU_UART_RING 512u /* bytes, a power of two: 44 ms at 115200 baud */
#endif

void uart_ring_put(uint8_t byte);

#endif
