/* The console's serial line, as bytes. */
#ifndef LINE_H
#define LINE_H

#include <stddef.h>
#include <stdint.h>

/* 0, or the error. */
int line_open(void);

/* The next byte that came, or -1. */
int line_read(void);

void line_write(const uint8_t *bytes, size_t n);

#endif
