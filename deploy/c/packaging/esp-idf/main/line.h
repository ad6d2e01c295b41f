/* The line to the host, as bytes: the USB Serial/JTAG port, or UART 0, as menuconfig says. */
#ifndef LINE_H
#define LINE_H

#include <stddef.h>
#include <stdint.h>

void line_open(void);

/* Wait at most `wait` ticks of FreeRTOS for bytes, and return how many came. */
int line_read(uint8_t *bytes, size_t n, uint32_t wait);

/* What the host does not take in time is lost. */
void line_write(const uint8_t *bytes, size_t n);

#endif
