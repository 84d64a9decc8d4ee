"""A password for git from the environment, when nothing that the user has set up for git knows one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from slipway.serving.promotion.address import HostKind, RepositoryAddress

# git asks "Username for 'https://host': " and "Password for 'https://user@host': "; no other host is answered.
_PROGRAM = """\
#!/bin/sh
case "$1" in
  *"//$SLIPWAY_ASKPASS_HOST': "*) printf '%s\\n' "$SLIPWAY_ASKPASS_USER" ;;
  *"@$SLIPWAY_ASKPASS_HOST': "*) printf '%s\\n' "$SLIPWAY_ASKPASS_TOKEN" ;;
  *) exit 1 ;;
esac
"""
_USERS = {"github": "x-access-token", "gitlab": "oauth2"}


@contextlib.contextmanager
def password_for_git(
    kind: HostKind | None, address: RepositoryAddress | None, written: str, token: str | None
) -> Iterator[Mapping[str, str]]:
    """Gives variables by which git learns the token, should it ask for a password; the token is in no argument.

    Credential helpers of the user are asked first, by git itself.

    Args:
        kind: Of the host; says under which name a token is given.
        address: Of the repository.
        written: The remote's address as it was written; only https is asked for passwords.
        token: None gives nothing.
    """
    encrypted = written.startswith("https://") or (
        address is not None and address.host.partition(":")[0] in ("127.0.0.1", "localhost")
    )
    if token is None or address is None or "://" not in written or not encrypted or "GIT_ASKPASS" in os.environ:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="slipway-askpass-") as folder:
        program = Path(folder) / "askpass"
        program.write_text(_PROGRAM)
        program.chmod(0o700)
        yield {
            "GIT_ASKPASS": str(program),
            "SLIPWAY_ASKPASS_HOST": address.host,
            "SLIPWAY_ASKPASS_USER": _USERS.get(kind or "", "git"),
            "SLIPWAY_ASKPASS_TOKEN": token,
        }
