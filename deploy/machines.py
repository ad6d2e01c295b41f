"""The bare-metal machines that QEMU emulates: how to compile for each, its memory, and how to start it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.toolchain import STRICT, compile_c

STACK_BYTES = 2048  # the least that a machine must leave for the stack
ARM = ("arm-none-eabi-gcc", "-mthumb")
RISCV = ("riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs", "-ffreestanding")
BARE = ("-nostartfiles", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-T", "machines/machine.ld")


@dataclass(frozen=True)
class Machine:
    """One of QEMU's boards.

    Attributes
    ----------
    core : str
        What its processor is called.
    compiler : tuple of str
        Compiler and the options that name the processor.
    flash, flash_bytes, ram, ram_bytes : int
        Where memory begins, and how much of it a program may use.
    qemu : tuple of str
        The emulator and its machine.
    """

    core: str
    compiler: tuple[str, ...]
    flash: int
    flash_bytes: int
    ram: int
    ram_bytes: int
    qemu: tuple[str, ...]

    @property
    def start(self) -> str:
        """The start-up file, in an exported folder."""
        return "machines/start_riscv.S" if "riscv" in self.compiler[0] else "machines/start_arm.c"

    def symbols(self) -> list[str]:
        """Options that tell the linker script the memory."""
        memory = {"FLASH": self.flash, "FLASH_BYTES": self.flash_bytes, "RAM": self.ram, "RAM_BYTES": self.ram_bytes}
        return [f"-Wl,--defsym=MACHINE_{name}={value:#x}" for name, value in (memory | {"STACK_BYTES": STACK_BYTES}).items()]

    def run(self, image: Path, *options: str) -> tuple[str, ...]:
        """Return the command that runs an image, with semihosting and nothing on the terminal."""
        bios = ("-bios", "none") if "riscv" in self.compiler[0] else ()
        host = ("-semihosting-config", "enable=on,target=native")
        return (*self.qemu, *bios, "-display", "none", "-monitor", "none", *host, "-kernel", str(image), *(options or ("-serial", "none")))


def _arm(core: str, cpu: Sequence[str], machine: str, flash_bytes: int, ram_bytes: int) -> Machine:
    return Machine(core, (*ARM, *cpu, "--specs=nano.specs"), 0, flash_bytes, 0x20000000, ram_bytes, ("qemu-system-arm", "-M", machine))


MACHINES = {
    "microbit": _arm("Cortex-M0", ("-mcpu=cortex-m0",), "microbit", 256 << 10, 16 << 10),
    "mps2-an385": _arm("Cortex-M3", ("-mcpu=cortex-m3",), "mps2-an385", 4 << 20, 4 << 20),
    "mps2-an386": _arm("Cortex-M4F", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386", 4 << 20, 4 << 20),
    "mps2-an500": _arm("Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "mps2-an500", 4 << 20, 4 << 20),
    "mps3-an547": _arm("Cortex-M55", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", 512 << 10, 512 << 10),
    "riscv32": Machine("RV32IMC", RISCV, 0x80000000, 4 << 20, 0x80400000, 4 << 20, ("qemu-system-riscv32", "-M", "virt")),
}


def build(machine: Machine, folder: Path, sources: Sequence[str], out: Path, flags: Sequence[str] = ("-O2",)) -> Path:
    """Compile sources of an exported folder for a machine.

    Raises
    ------
    UserError
        No compiler for it, or it refused: a model too large for the machine is one such case, and the linker script says so.
    """
    compile_c(folder, [*machine.compiler, *STRICT, *flags, *BARE, *machine.symbols(), machine.start, *sources, "-o", str(out)])
    return out
