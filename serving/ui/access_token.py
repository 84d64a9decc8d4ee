"""The secret that a command has to bring along, kept in a file that only its owner can read."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from slipway.contracts.files import write_atomically

_PRIVATE = 0o600
_SHORTEST = 32


def load_or_create_token(path: Path, *, renew: bool = False) -> str:
    """Returns the token in `path`; a new one if there is none, if others could read it, or if one is asked for.

    Raises:
        EnvironmentProblemError: The file cannot be written.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text().strip()
    except OSError:
        mode, token = 0, ""
    if renew or mode & 0o077 or len(token) < _SHORTEST:
        token = secrets.token_urlsafe(32)
        write_atomically(path, token + "\n", mode=_PRIVATE)
    return token


def is_token(given: str, token: str) -> bool:
    """Returns whether they are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())
