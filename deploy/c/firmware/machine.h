/* What the main loop asks of a machine. One file a kind of UART and of clock implements it; a port to a board writes these. */
#ifndef PDMU_MACHINE_H
#define PDMU_MACHINE_H

#include <stdint.h>

void pdmu_uart_start(void);

/* The next byte that came, or -1. */
int32_t pdmu_uart_read(void);

/* Waits while the transmitter is full. */
void pdmu_uart_write(uint8_t byte);

void pdmu_clock_start(void);

/* Since the start, modulo 2^32. */
uint32_t pdmu_clock_ticks(void);
uint32_t pdmu_clock_ms(void);
extern const uint32_t pdmu_clock_hz;

/* Sleeps until a byte is to be read or a moment has passed, 10 ms at most. */
void pdmu_machine_wait(void);

/* Starts the processor anew. */
void pdmu_machine_reset(void);

/* Called once a turn of the main loop; weak and empty: a board with a watchdog feeds it here. */
void pdmu_machine_watchdog(void);

#endif
