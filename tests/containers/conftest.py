"""The engine, where there is one and images are built."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from container_engine import Engine, images


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine, where there is one and images are built."""
    program = os.environ.get("ENGINE") or next((name for name in ("podman", "docker") if shutil.which(name)), None)
    if program is None or not shutil.which(program):
        pytest.skip("neither podman nor docker is on this machine")
    if not images():
        pytest.skip("no image is built: make images")
    for part, name in images().items():
        if subprocess.run([program, "image", "inspect", name], capture_output=True).returncode:
            pytest.skip(f"the image of {part} is not here any more: make images")
    return Engine(program)
