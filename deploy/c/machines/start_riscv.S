/* Start-up of a 32-bit RISC-V: stack, data and bss, then main. The linker script gives the symbols. */
    .section .vectors, "ax"
    .globl pdmu_reset
pdmu_reset:
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    la sp, pdmu_stack_top
    la t0, pdmu_fault
    .option push
    .option arch, +zicsr
    csrw mtvec, t0
    .option pop
    la a0, pdmu_data_load
    la a1, pdmu_data_start
    la a2, pdmu_data_end
1:  bgeu a1, a2, 2f
    lw t0, 0(a0)
    sw t0, 0(a1)
    addi a0, a0, 4
    addi a1, a1, 4
    j 1b
2:  la a1, pdmu_bss_start
    la a2, pdmu_bss_end
3:  bgeu a1, a2, 4f
    sw zero, 0(a1)
    addi a1, a1, 4
    j 3b
4:  call main
    .balign 4
    .weak pdmu_fault
pdmu_fault:
    j pdmu_fault
