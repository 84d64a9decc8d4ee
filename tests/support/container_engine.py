"""Runs the images that `make images` built; RUN_FLAGS holds flags of the engine that this machine needs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "images.json"
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--user", "65532:65532", "--cap-drop", "ALL")


def images() -> dict[str, str]:
    """Returns the images that are built: part -> name."""
    if not BUILT.exists():
        return {}
    facts = json.loads(BUILT.read_text())
    return {part: f"{image['repository']}:{image['tag']}" for part, image in sorted(facts.items())}


@dataclass(frozen=True)
class Engine:
    """podman or docker."""

    program: str

    def command(
        self, part: str, *arguments: str, flags: Sequence[str] = (), work: Path | None = None, network: str = "none"
    ) -> list[str]:
        """Returns the command that runs an image, confined; `work` is mounted and is the working directory."""
        mounted = ("--volume", f"{work}:/work", "--workdir", "/work") if work is not None else ()
        own = shlex.split(os.environ.get("RUN_FLAGS", ""))
        options = (*own, *CONFINED, "--network", network, *mounted, *flags)
        return [self.program, "run", "--rm", *options, images()[part], *arguments]

    def run(
        self, part: str, *arguments: str, flags: Sequence[str] = (), work: Path | None = None, network: str = "none"
    ) -> subprocess.CompletedProcess[str]:
        """Runs an image to its end."""
        command = self.command(part, *arguments, flags=flags, work=work, network=network)
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    def inspect(self, part: str) -> dict[str, Any]:
        """Returns what the engine knows of an image."""
        listing = subprocess.run([self.program, "image", "inspect", images()[part]], capture_output=True, check=True)
        facts: dict[str, Any] = json.loads(listing.stdout)[0]
        return facts
