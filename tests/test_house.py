"""Packaging and import direction: what a wheel holds, and what each tier can be imported without."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("pdmu", "spiking", "deploy", "edge_agent")
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())

# Refuses every import whose top-level name `allowed(name)` does not accept, then imports the modules given.
IMPORT_UNDER_BLOCK = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if not ({allowed}):
            raise ImportError(f"{{name}} is blocked in this test")

sys.meta_path.insert(0, Block())
for module in {modules!r}:
    importlib.import_module(module)
"""


def modules_in(folder: str, recursive: bool) -> list[str]:
    """Return the dotted names of the modules under a package folder of the checkout."""
    pattern = "**/*.py" if recursive else "*.py"
    names = (path.relative_to(REPO).with_suffix("").parts for path in sorted((REPO / folder).glob(pattern)))
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names if parts[-1] != "__main__"]


def run_python(code: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, **kwargs)  # type: ignore[call-overload]


def test_numpy_tier_imports_with_numpy_alone() -> None:
    allowed = "name.split('.')[0] in sys.stdlib_module_names | {'numpy', 'pdmu', 'tomli'}"
    done = run_python(IMPORT_UNDER_BLOCK.format(allowed=allowed, modules=modules_in("pdmu", recursive=False)))
    assert done.returncode == 0, done.stderr


def test_agent_imports_without_training_libraries() -> None:
    blocked = {"torch", "snntorch", "librosa", "tensorflow", "sklearn", "scipy", "matplotlib", "numba", "deploy", "spiking"}
    modules = modules_in("edge_agent", recursive=True)
    assert "edge_agent.cli" in modules
    done = run_python(IMPORT_UNDER_BLOCK.format(allowed=f"name.split('.')[0] not in {blocked!r}", modules=modules))
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    done = run_python(IMPORT_UNDER_BLOCK.format(allowed="name != 'json'", modules=["json"]))
    assert "json is blocked in this test" in done.stderr


# Of what each extra names, the modules that are imported by another name.
MODULES = {"scikit-learn": "sklearn", "paho-mqtt": "paho", "ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}


@pytest.mark.parametrize(("folder", "extras"), [("pdmu/data", ["train"]), ("pdmu/nn", ["train"]), ("deploy", ["train", "deploy", "agent"])])
def test_every_library_imported_is_in_an_extra(folder: str, extras: list[str]) -> None:
    named = [re.split(r"[<>=; ]", line)[0] for extra in extras for line in PYPROJECT["project"]["optional-dependencies"][extra]]
    known = {MODULES.get(name, name) for name in named} | sys.stdlib_module_names | {"numpy", "tomli", *PACKAGES}
    for path in sorted((REPO / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {m.split(".")[0] for m in modules} <= known, f"{path.relative_to(REPO)}, line {getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize("script", sorted(PYPROJECT["project"]["scripts"]))
def test_console_script_prints_its_help(script: str) -> None:
    module, function = PYPROJECT["project"]["scripts"][script].split(":")
    done = run_python(f"import sys; from {module} import {function} as main; sys.argv = [{script!r}, '--help']; sys.exit(main())")
    assert done.returncode == 0, done.stderr
    assert script in done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder of the checkout can slip into it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, copy)
    for name in (*PACKAGES, "datasets", "models"):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_wheel_holds_our_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops <= set(PACKAGES), "a top-level 'datasets' would overwrite Hugging Face's"
    carried = {f"pdmu/_datasets/{path.relative_to(REPO / 'datasets').as_posix()}" for path in (REPO / "datasets").rglob("*.toml")}
    carried |= {f"pdmu/_models/{path.name}" for path in (REPO / "models").glob("*.pdmu")}
    carried |= {path.relative_to(REPO).as_posix() for path in (REPO / "deploy" / "c").rglob("*") if path.is_file()}
    carried |= {path.relative_to(REPO).as_posix() for path in (REPO / "edge_agent" / "schema").glob("*.json")}
    for kind in ("pdmu/_datasets/recipes/", "deploy/c/", "edge_agent/schema/", "pdmu/_models/"):
        assert any(name.startswith(kind) for name in carried), f"the checkout has nothing that would become {kind}"
    assert carried <= names


def test_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import pdmu, pdmu.resources as r; print(pdmu.__file__); print(r.resource_dir('datasets')); print(r.resource_dir('models'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "pdmu" / name) for name in ("__init__.py", "_datasets", "_models")]


def test_datasets_holds_no_python() -> None:
    assert not list((REPO / "datasets").rglob("*.py"))
