/* The UART of Arm's MPS2 and MPS3 boards (CMSDK APB UART, Arm DDI 0479). It holds one byte: an interrupt takes it into a ring. */
#include "machine.h"
#include "uart_ring.h"

#ifndef PDMU_UART_BASE
#define PDMU_UART_BASE 0x40004000u
#define PDMU_UART_IRQ 0u
#endif
#define BAUD_DIVIDER 217u /* 25 MHz / 115200 */

typedef struct {
    volatile uint32_t data, state, control, interrupt, divider;
} uart;

enum { TX_FULL = 1, RX_FULL = 2 };
enum { TX_ENABLE = 1, RX_ENABLE = 2, RX_INTERRUPT = 8 };
enum { CLEAR_RX = 2 };

#define UART ((uart *)PDMU_UART_BASE)
#define ISER ((volatile uint32_t *)0xE000E100u)

void pdmu_interrupt(void);

void pdmu_interrupt(void) {
    UART->interrupt = CLEAR_RX;
    while (UART->state & RX_FULL) uart_ring_put((uint8_t)UART->data);
}

void pdmu_uart_start(void) {
    UART->divider = BAUD_DIVIDER;
    UART->control = TX_ENABLE | RX_ENABLE | RX_INTERRUPT;
    ISER[PDMU_UART_IRQ / 32u] = 1u << (PDMU_UART_IRQ % 32u);
}

void pdmu_uart_write(uint8_t byte) {
    while (UART->state & TX_FULL) {
    }
    UART->data = byte;
}
