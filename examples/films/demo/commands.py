"""Runs `slipway` as a person would, and says what it does and how long it took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slipway.contracts.errors import SlipwayError


class Demo:
    """A folder, a clock, and the command line.

    Args:
        directory: The project that the demo makes and works in.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.began = time.monotonic()
        self.parts: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        """Prints a line with the seconds since the start."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def slipway(self, *arguments: str, accept: tuple[int, ...] = (0,), quiet: bool = False) -> tuple[int, Any]:
        """Runs a command in the project's folder.

        Args:
            arguments: The command line without `slipway`.
            accept: Exit codes that are no failure of the demo: 3 where a rollout is expected to be judged.
            quiet: Do not print the command.

        Returns:
            The exit code, and what it printed: parsed where it is JSON, else text.

        Raises:
            SlipwayError: It ended with another exit code.
        """
        if not quiet:
            self.say("$ slipway " + " ".join(arguments))
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "slipway.cli.main", *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = []
        for line in process.stderr:
            errors.append(line)
            if not quiet and line.strip():
                print(f"          {line.rstrip()}", flush=True)
        output = process.stdout.read()
        code = process.wait()
        self.parts.append({"command": " ".join(arguments), "seconds": round(time.monotonic() - began, 2), "code": code})
        if code not in accept:
            raise SlipwayError(
                f"`slipway {' '.join(arguments)}` ended with {code}: {(errors or [output or '?'])[-1].strip()}",
                where="demo",
                remedy=f"Look into {self.directory}/.slipway, or run the command there by hand.",
            )
        try:
            return code, json.loads(output)
        except ValueError:
            return code, output
