"""The bare-metal machines that QEMU emulates: how to compile for each, its memory, and how to start it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.toolchain import INCLUDES, STRICT, compile_c
from pdmu.errors import UserError

STACK_BYTES = 1536  # the least that a machine must leave for the stack; the firmware measures what it takes
ARM = ("arm-none-eabi-gcc", "-mthumb")
RISCV = ("riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs", "-ffreestanding")
BARE = ("-nostartfiles", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-T", "machines/machine.ld")


class TooLarge(UserError):
    """A model, or what runs it, that does not fit in a machine's memory."""


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
    drivers : tuple of str
        UART and clock of the firmware, in an exported folder.
    clock_hz : int
        Of the clock's ticks.
    defines : tuple of str
        Options that tell the drivers where things are.
    """

    core: str
    compiler: tuple[str, ...]
    flash: int
    flash_bytes: int
    ram: int
    ram_bytes: int
    qemu: tuple[str, ...]
    drivers: tuple[str, ...]
    clock_hz: int
    defines: tuple[str, ...] = ()

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


def _arm(core: str, cpu: Sequence[str], machine: str, flash_bytes: int, ram_bytes: int, clock_hz: int = 25_000_000,
         uart: str = "cmsdk", defines: Sequence[str] = ()) -> Machine:  # fmt: skip
    drivers = (f"firmware/uart_{uart}.c", "firmware/uart_ring.c", "firmware/clock_systick.c")
    options = (f"-DPDMU_CLOCK_HZ={clock_hz}u", *defines)
    compiler = (*ARM, *cpu, "--specs=nano.specs")
    return Machine(core, compiler, 0, flash_bytes, 0x20000000, ram_bytes, ("qemu-system-arm", "-M", machine), drivers, clock_hz, options)


M4F = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
M7 = ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard")
M55 = ("-mcpu=cortex-m55", "-mfloat-abi=hard")
SMALL = ("-DPDMU_BOARD_PCM_SAMPLES=128u", "-DPDMU_BOARD_EVENTS=4u", "-DPDMU_UART_RING=256u")  # of 16 KB the model takes most
UART_AN547 = ("-DPDMU_UART_BASE=0x49303000u", "-DPDMU_UART_IRQ=33u")
VIRT = ("qemu-system-riscv32", "-M", "virt")
MACHINES = {
    "microbit": _arm("Cortex-M0", ("-mcpu=cortex-m0",), "microbit", 256 << 10, 16 << 10, 16_000_000, "nrf51", SMALL),
    "mps2-an385": _arm("Cortex-M3", ("-mcpu=cortex-m3",), "mps2-an385", 4 << 20, 4 << 20),
    "mps2-an386": _arm("Cortex-M4F", M4F, "mps2-an386", 4 << 20, 4 << 20),
    "mps2-an500": _arm("Cortex-M7", M7, "mps2-an500", 4 << 20, 4 << 20),
    "mps3-an547": _arm("Cortex-M55", M55, "mps3-an547", 512 << 10, 512 << 10, 32_000_000, defines=UART_AN547),
    "riscv32": Machine("RV32IMC", RISCV, 0x80000000, 4 << 20, 0x80400000, 4 << 20, VIRT,
                       ("firmware/uart_16550.c", "firmware/clock_clint.c"), 10_000_000),
}  # fmt: skip


def makefile() -> str:
    """Return what an exported folder's ``make firmware`` asks about the machines, in make's language."""
    lines = [
        "# How the machines differ: generated with the model.",
        f"MACHINES = {' '.join(MACHINES)}",
        f"MACHINE_INCLUDES = {' '.join(INCLUDES)}",
    ]
    for name, machine in MACHINES.items():
        lines.append(f"CC_{name} = {' '.join(machine.compiler)}")
        lines.append(f"CFLAGS_{name} = {' '.join((*machine.defines, *BARE, *machine.symbols()))}")
        lines.append(f"SOURCES_{name} = {' '.join((machine.start, *machine.drivers))}")
    return "\n".join(lines) + "\n"


def build(machine: Machine, folder: Path, sources: Sequence[str], out: Path, flags: Sequence[str] = ("-O2",)) -> Path:
    """Compile sources of an exported folder for a machine.

    Raises
    ------
    TooLarge
        It does not fit.
    UserError
        No compiler for it, or it refused.
    """
    try:
        compile_c(folder, [*machine.compiler, *STRICT, *flags, *BARE, *machine.symbols(), machine.start, *sources, "-o", str(out)])
    except UserError as error:
        if not any(words in str(error) for words in ("will not fit in region", "too little RAM")):
            raise
        memory = f"{machine.ram_bytes // 1024} kB of RAM and {machine.flash_bytes // 1024} kB of flash"
        raise TooLarge(f"{machine.qemu[-1]}: the model does not fit in {memory}; take a larger machine or a smaller model") from None
    return out
