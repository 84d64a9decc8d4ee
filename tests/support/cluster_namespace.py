"""One namespace of a real cluster, through kubectl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any


class Cluster:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs kubectl and returns what it printed; fails the test if it fails."""
        done = subprocess.run(
            ["kubectl", "--namespace", self.namespace, "--request-timeout=20s", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def get(self, *what: str) -> Any:
        """Returns objects as kubectl gives them in JSON."""
        return json.loads(self.kubectl("get", *what, "-o", "json").stdout)

    def wait_for(self, what: str, question: Callable[[], Any], seconds: float = 30.0) -> Any:
        """Asks until the answer is true and returns it."""
        deadline = time.monotonic() + seconds
        while not (answer := question()):
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
            time.sleep(0.2)
        return answer
