"""Writes that are either whole or absent, and digests of what was written."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway.contracts.errors import EnvironmentProblemError, LockHeldError


def write_atomically(path: Path, content: bytes | str, *, mode: int = 0o644, modified_ns: int | None = None) -> None:
    """Replaces `path` by `content` so that a reader sees the old or the new file, never a part.

    Args:
        path: The file; its folder is made.
        content: All of it; text is UTF-8.
        mode: Its rights.
        modified_ns: Its time in nanoseconds since 1970; now if not given.

    Raises:
        EnvironmentProblemError: The disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            Path(name).chmod(mode)
            if modified_ns is not None:
                os.utime(name, ns=(modified_ns, modified_ns))
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise EnvironmentProblemError(
            f"could not write {len(data):,} bytes ({error.strerror})",
            where=str(path),
            remedy="Free space or change the rights of the folder, then run the command again.",
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON with sorted keys, atomically. NaN and infinity are refused."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")


def canonical_json(content: Any) -> str:
    """Returns JSON with one spelling per content, fit for hashing."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def sha256_of(content: bytes | str) -> str:
    """Returns the hexadecimal SHA-256 of bytes or text."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: Path, *, holder: str, remedy: str) -> Iterator[None]:
    """Holds an advisory lock on `path` for the block; the kernel frees it when the holder dies.

    Args:
        path: The lock file; it stays behind, its lock does not.
        holder: What the holder does, told to whoever is refused.
        remedy: What the refused caller can do.

    Raises:
        LockHeldError: A live process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
            raise LockHeldError(f"locked by {owner}", where=str(path), remedy=remedy) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder} (process {os.getpid()})\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
