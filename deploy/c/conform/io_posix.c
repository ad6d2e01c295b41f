#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "io.h"

int32_t pdmu_io_open(const char *name, enum pdmu_io_mode mode) {
    return mode == PDMU_IO_READ ? open(name, O_RDONLY) : open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
}

int32_t pdmu_io_read(int32_t handle, void *bytes, int32_t n) {
    int32_t got = 0;
    while (got < n) {
        const ssize_t part = read(handle, (char *)bytes + got, (size_t)(n - got));
        if (part < 0) return -1;
        if (part == 0) break;
        got += (int32_t)part;
    }
    return got;
}

int32_t pdmu_io_write(int32_t handle, const void *bytes, int32_t n) {
    int32_t put = 0;
    while (put < n) {
        const ssize_t part = write(handle, (const char *)bytes + put, (size_t)(n - put));
        if (part <= 0) return 0;
        put += (int32_t)part;
    }
    return 1;
}

void pdmu_io_exit(int32_t status) { exit(status); }
