/* The UART of Nordic's nRF51, of the first BBC micro:bit (nRF51 Series Reference Manual 3.0, chapter 29). It holds six bytes. */
#include "machine.h"
#include "uart_ring.h"

#define BASE 0x40002000u
#define REGISTER(offset) (*(volatile uint32_t *)(BASE + (offset)))
#define START_RX REGISTER(0x000u)
#define START_TX REGISTER(0x008u)
#define RX_READY REGISTER(0x108u)
#define TX_READY REGISTER(0x11Cu)
#define INTERRUPT_SET REGISTER(0x304u)
#define ENABLE REGISTER(0x500u)
#define RX_DATA REGISTER(0x518u)
#define TX_DATA REGISTER(0x51Cu)
#define BAUD_RATE REGISTER(0x524u)
#define RATE_115200 0x01D7E000u
#define IRQ 2u
#define ISER ((volatile uint32_t *)0xE000E100u)

static uint32_t sent;

void pdmu_interrupt(void);

void pdmu_interrupt(void) {
    while (RX_READY) {
        RX_READY = 0;
        uart_ring_put((uint8_t)RX_DATA);
    }
}

void pdmu_uart_start(void) {
    BAUD_RATE = RATE_115200;
    ENABLE = 4;
    START_RX = 1;
    START_TX = 1;
    INTERRUPT_SET = 1u << 2;
    ISER[0] = 1u << IRQ;
}

void pdmu_uart_write(uint8_t byte) {
    while (sent && !TX_READY) {
    }
    TX_READY = 0;
    sent = 1;
    TX_DATA = byte;
}
