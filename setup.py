"""Carry the data folders into the wheel; everything else is in pyproject.toml.

`datasets/` and `models/` hold no Python. Installed under their own names they would lie beside (or overwrite) other people's packages,
so the wheel has them as `pdmu/_datasets` and `pdmu/_models`; :func:`pdmu.resources.resource_dir` finds them in both places.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CARRIED = {"datasets": ("*.toml", "*.md"), "models": ("*.pdmu", "*.tflite", "*.md")}


def carried_files() -> list[tuple[Path, Path]]:
    """Return (source, place inside the wheel) of every data file, both relative."""
    return [
        (path.relative_to(ROOT), Path("pdmu") / f"_{folder}" / path.relative_to(ROOT / folder))
        for folder, patterns in CARRIED.items()
        for pattern in patterns
        for path in sorted((ROOT / folder).rglob(pattern))
    ]


class BuildWithData(build_py):
    """`build_py` that also copies the data folders; an editable install reads them in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, place in carried_files():
            target = Path(self.build_lib) / place
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        carried = [] if self.editable_mode else [str(Path(self.build_lib) / place) for _, place in carried_files()]
        return super().get_outputs(include_bytecode) + carried


setup(cmdclass={"build_py": BuildWithData})
