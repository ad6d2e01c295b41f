"""What a bundle costs a microcontroller: flash, RAM, and instructions counted exactly under QEMU.

`python -m benchmarks.mcu` measures, :mod:`benchmarks.mcu.measure` says how, ``insn_count.c`` is the plugin that counts.
"""
