"""Write a bundle as a folder that a microcontroller's own build tool takes: the C runtime, one model, and a program for a board."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.c_export import RUNTIME, SOURCES, check_limits, generated_texts
from pdmu.bundle import Bundle
from pdmu.files import write_text

PLATFORMS = {"arduino": "src", "platformio": "lib/pdmu/src", "zephyr": "src", "esp-idf": "components/pdmu/src"}  # where their C code lies
TEMPLATES = RUNTIME / "packaging"
SKETCH = "arduino/examples/Microphone/Microphone.ino"  # a PlatformIO project with Arduino's core runs the same
CODE = (".c", ".h")


def export_package(bundle: Bundle, platform: str, out_dir: Path) -> list[Path]:
    """Write the bundle for a platform's build tool.

    Parameters
    ----------
    bundle : Bundle
        As read or written: it has its SHA-256 and golden answers.
    platform : str
        One of `PLATFORMS`.
    out_dir : Path
        Made when missing; files of an earlier export in it are replaced.

    Returns
    -------
    list of Path
        Every file written.

    Raises
    ------
    UserError
        If the C runtime cannot hold the bundle (which limit, and the way out), or a file cannot be written.
    """
    check_limits(bundle)
    code = _code(bundle)
    texts = {f"{PLATFORMS[platform]}/{name}": text for name, text in code.items()}
    values = _values(bundle, [name for name in code if name.endswith(".c")])
    for path in sorted((TEMPLATES / platform).rglob("*")):
        if path.is_file():
            texts[path.relative_to(TEMPLATES / platform).as_posix()] = _fill(path.read_text(encoding="utf-8"), values)
    if platform == "platformio":
        texts["src/main.cpp"] = (TEMPLATES / SKETCH).read_text(encoding="utf-8")
    return [write_text(Path(out_dir) / name, text) for name, text in texts.items()]


def _code(bundle: Bundle) -> dict[str, str]:
    """Return the C files, all in one folder: the Arduino tools know no other include path than ``src``."""
    runtime = [RUNTIME / "include/pdmu.h", *sorted((RUNTIME / "src").glob("*.h")), *(RUNTIME / name for name in SOURCES)]
    board = [path for folder in (RUNTIME / "link", TEMPLATES / "microphone") for path in sorted(folder.iterdir()) if path.suffix in CODE]
    model = {name: text for name, text in generated_texts(bundle).items() if name != "model_golden.c"}  # the host has the golden scores
    return model | {path.name: path.read_text(encoding="utf-8") for path in [*runtime, *board] if path.name != "stream.c"}


def _values(bundle: Bundle, sources: list[str]) -> dict[str, str]:
    name, version = (str(bundle.info.get(key, "")) for key in ("name", "version"))
    return {
        "NAME": re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "model",
        "VERSION": _semantic_version(version),
        "LABELS": _one_line(", ".join(bundle.labels)),
        "LICENCE": _one_line(str(bundle.info.get("licence", "not stated"))),
        "SHA": bundle.sha256[:16],
        "HOST": (TEMPLATES / "host.md").read_text(encoding="utf-8").strip(),
        "SOURCES": "\n    ".join(f'"src/{source}"' for source in sources),
    }


def _one_line(text: str) -> str:
    """Return a text that needs no escapes in JSON, YAML, CMake or a properties file."""
    return " ".join(re.sub(r"[\"\\\x00-\x1f$]", " ", text).split())


def _semantic_version(version: str) -> str:
    """Return ``x.y.z``, which the package managers insist on; 0.0.0 for a version that is not of numbers."""
    if not re.fullmatch(r"\d+(\.\d+){0,2}", version):
        return "0.0.0"
    parts = [str(int(part)) for part in version.split(".")]
    return ".".join([*parts, "0", "0"][:3])


def _fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text)
