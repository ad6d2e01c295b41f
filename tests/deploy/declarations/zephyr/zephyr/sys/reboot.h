#pragma once

enum { SYS_REBOOT_WARM, SYS_REBOOT_COLD };
void sys_reboot(int type) __attribute__((noreturn));
