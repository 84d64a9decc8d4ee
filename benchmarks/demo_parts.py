"""Seconds of each part of `make demo` after installation, and how many visits went without an answer.

Runs the demo in a folder that is removed afterwards and prints one JSON object. Run: python benchmarks/demo_parts.py
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Runs the demo and prints what it wrote down."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "demo"
        command = [sys.executable, "-m", "slipway.examples.films.demo", "--directory", str(directory)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        record = json.loads((directory / "demo.json").read_text())
    figures = {
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "seconds": {f"slipway {part['command']}": part["seconds"] for part in record["parts"]},
        "seconds in all": record["seconds"],
        "visits": record["visits"],
        "visits without an answer": record["unanswered"],
        "rollouts": {rollout["title"]: rollout["phase"] for rollout in record["rollouts"]},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
