/* Files and the end of the program: of the system on a PC, of the debugger's semihosting on bare metal. */
#ifndef PDMU_CONFORM_IO_H
#define PDMU_CONFORM_IO_H

#include <stdint.h>

enum pdmu_io_mode { PDMU_IO_READ, PDMU_IO_WRITE };

/* A handle, or a negative number. */
int32_t pdmu_io_open(const char *name, enum pdmu_io_mode mode);

/* How many bytes were read: fewer than asked for at the end of the file alone. Negative: an error. */
int32_t pdmu_io_read(int32_t handle, void *bytes, int32_t n);

/* 1 when all of it was written. */
int32_t pdmu_io_write(int32_t handle, const void *bytes, int32_t n);

/* Does not return; status 0 is success. */
void pdmu_io_exit(int32_t status);

#endif
