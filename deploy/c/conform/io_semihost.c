/* Semihosting (Arm IHI 0068; RISC-V's has the same operations): the debugger, here QEMU, opens files for the program. */
#include <string.h>

#include "io.h"

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT = 0x18 };
enum { OPEN_RB = 1, OPEN_WB = 5 };
enum { STOPPED_APPLICATION_EXIT = 0x20026, STOPPED_RUN_TIME_ERROR = 0x20023 };

static intptr_t semihost(int32_t operation, const void *argument) {
#if defined(__riscv)
    register intptr_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(
        ".balign 16\n"
        ".option push\n"
        ".option norvc\n"
        "slli x0, x0, 0x1f\n"
        "ebreak\n"
        "srai x0, x0, 7\n"
        ".option pop\n"
        : "+r"(a0)
        : "r"(a1)
        : "memory");
    return a0;
#else
    register intptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

int32_t pdmu_io_open(const char *name, enum pdmu_io_mode mode) {
    const struct {
        const char *name;
        intptr_t mode;
        size_t length;
    } block = {name, mode == PDMU_IO_READ ? OPEN_RB : OPEN_WB, strlen(name)};
    return (int32_t)semihost(SYS_OPEN, &block);
}

/* Both operations answer with the number of bytes that were not transferred. */
static int32_t transfer(int32_t operation, int32_t handle, const void *bytes, int32_t n) {
    const struct {
        intptr_t handle;
        const void *bytes;
        intptr_t n;
    } block = {handle, bytes, n};
    return (int32_t)semihost(operation, &block);
}

int32_t pdmu_io_read(int32_t handle, void *bytes, int32_t n) { return n - transfer(SYS_READ, handle, bytes, n); }

int32_t pdmu_io_write(int32_t handle, const void *bytes, int32_t n) { return transfer(SYS_WRITE, handle, bytes, n) == 0; }

void pdmu_io_exit(int32_t status) {
    /* 32-bit targets give the reason itself, not a block. */
    (void)semihost(SYS_EXIT, (const void *)(intptr_t)(status == 0 ? STOPPED_APPLICATION_EXIT : STOPPED_RUN_TIME_ERROR)); /* NOLINT */
    for (;;) {
    }
}
