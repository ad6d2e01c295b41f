/* What stands for a board's serial line on a PC: a pseudo-terminal, a TCP socket, or standard input and output. As on a real line, what is
 * written while nobody is at the other end is lost, and somebody may come again. */
#ifndef PDMU_LINE_H
#define PDMU_LINE_H

#include <stddef.h>
#include <stdint.h>

enum line_kind { LINE_PTY, LINE_STDIO, LINE_TCP };

typedef struct {
    enum line_kind kind;
    int in, out;  /* -1: nobody is there */
    int listener; /* -1 but for TCP */
} line;

/* Open a line, `tcp_port` 0 being any free one, and print where it is on standard output. 0, or -1 with errno. */
int line_open(line *l, enum line_kind kind, uint16_t tcp_port);

/* Wait at most timeout_ms for bytes and return their number; -1 when no more can come. */
int line_read(line *l, uint8_t *bytes, size_t n, int timeout_ms);

/* A reader that takes nothing for two seconds loses the rest. */
void line_write(line *l, const uint8_t *bytes, size_t n);

#endif
