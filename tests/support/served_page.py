"""The page as `slipway ui` serves it, and Chromium to look at it with."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from slipway.serving.local.layout import PlaneLayout


def eventually(condition: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """Returns the first true value of a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"{what} did not come true within {seconds} s")


# Without certificates to load, and with room for many streams at once.
CLIENT = httpx.Client(trust_env=False, verify=False, timeout=20, limits=httpx.Limits(max_connections=None))


@dataclass
class Served:
    """A page that is served."""

    base: str
    token: str
    directory: Path
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Returns the answer to a GET; header names have dashes where these have underscores."""
        return CLIENT.get(f"{self.base}{path}", headers=_named(headers))

    def post(self, path: str, content: Any, **headers: str) -> httpx.Response:
        """Returns the answer to a POST of JSON."""
        return CLIENT.post(f"{self.base}{path}", json=content, headers=_named(headers))

    def tell(self, rollout: str, kind: str, **headers: str) -> httpx.Response:
        """Returns the answer to a command with the token."""
        given = {"authorization": f"Bearer {self.token}"} | headers
        return self.post(f"/api/rollouts/{rollout}/commands", {"kind": kind}, **given)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.contextmanager
def served(directory: Path, *options: str) -> Iterator[Served]:
    """Runs `slipway ui` for a project's folder; it must stop by itself when it is asked to."""
    (PlaneLayout(directory).rollouts).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "slipway.cli.main", "ui", "-f", str(directory / "slipway.yaml"), "-o", "json"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory
    )
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, f"slipway ui ended: {process.stderr.read() if process.stderr else ''}"
        text += line
    base, _, token = str(json.loads(text)["url"]).partition("/#token=")
    page = Served(base.rstrip("/"), token, directory, process)
    try:
        eventually(lambda: _answers(page), what="the page")
        yield page
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert "Traceback" not in said, said


def _answers(page: Served) -> bool:
    try:
        return page.get("/").status_code == 200
    except httpx.TransportError:
        return False
