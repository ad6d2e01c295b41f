/* A 16550 UART, as QEMU's RISC-V "virt" machine has it. Sixteen bytes are held and polled once a turn: under an emulator, which waits. */
#include "machine.h"

#define BASE ((volatile uint8_t *)0x10000000u)
enum { DATA = 0, INTERRUPT = 1, FIFO_CONTROL = 2, LINE_CONTROL = 3, LINE_STATUS = 5 };
enum { RX_READY = 0x01, TX_EMPTY = 0x20, EIGHT_BITS = 3, FIFO_ON = 1, ON_RX = 1 };

void pdmu_uart_start(void) {
    BASE[LINE_CONTROL] = EIGHT_BITS;
    BASE[FIFO_CONTROL] = FIFO_ON;
    BASE[INTERRUPT] = ON_RX;
}

int32_t pdmu_uart_read(void) { return BASE[LINE_STATUS] & RX_READY ? BASE[DATA] : -1; }

void pdmu_uart_write(uint8_t byte) {
    while (!(BASE[LINE_STATUS] & TX_EMPTY)) {
    }
    BASE[DATA] = byte;
}
