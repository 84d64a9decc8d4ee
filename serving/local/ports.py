"""Ports on loopback: what the user wants if it is free, else the next free one, the same again after a restart."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.files import sha256_of, write_json

# Below the range from which Linux takes the local ports of outgoing connections (32768 and up).
_FIRST, _LAST = 20_000, 29_999


def is_free(port: int) -> bool:
    """Returns whether a server could listen on the port of loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: without it a port that was in use a moment ago would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def holder_of(port: int) -> str | None:
    """Returns who listens on a port, as `name (process 123)`, or None when this user may not see it."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return None
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return None
    return None


def check_wanted(ports: Mapping[str, int]) -> None:
    """Refuses ports that the user set and that someone else holds.

    Raises:
        EnvironmentProblemError: Names the port and, where visible, its holder.
    """
    for name, port in ports.items():
        if not is_free(port):
            holder = holder_of(port)
            raise EnvironmentProblemError(
                f"port {port}, wanted for {name}, is in use" + (f" by {holder}" if holder else ""),
                where=f"serving.ports.{name}",
                remedy="Stop that process, set another port, or set none: then the next free one is taken.",
            )


class PortBook:
    """Ports by name, kept in a file so that a restarted process keeps its address.

    Args:
        path: Where the book is kept.
        fixed: Ports that the user set.
        preferred: Ports to take if they are free.
    """

    def __init__(
        self,
        path: Path,
        *,
        fixed: Mapping[str, int],
        preferred: Mapping[str, int] | None = None,
        free: Callable[[int], bool] = is_free,
    ) -> None:
        self._path = path
        self._fixed = dict(fixed)
        self._preferred = dict(preferred or {})
        self._free = free
        # Projects start at different places, so that two that start together do not race for the same ports.
        self._start = _FIRST + int(sha256_of(str(path))[:8], 16) % (_LAST - _FIRST)
        try:
            self._ports: dict[str, int] = {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            self._ports = {}

    def __getitem__(self, name: str) -> int:
        return self._fixed.get(name) or self._ports[name]

    def claim(self, name: str, *, in_use: bool = False) -> int:
        """Returns the port of a name, choosing one if it has none or if a stranger took it meanwhile.

        Args:
            in_use: The process of that name runs already: its port is not expected to be free.
        """
        if name in self._fixed:
            return self._fixed[name]
        if name in self._ports and (in_use or self._free(self._ports[name])):
            return self._ports[name]
        self._ports[name] = self._choose(name)
        self._save()
        return self._ports[name]

    def release(self, prefix: str) -> None:
        """Forgets the ports of all names that start with `prefix`."""
        kept = {name: port for name, port in self._ports.items() if not name.startswith(prefix)}
        if kept != self._ports:
            self._ports = kept
            self._save()

    def _choose(self, name: str) -> int:
        taken = set(self._fixed.values()) | {port for other, port in self._ports.items() if other != name}
        wanted = self._preferred.get(name)
        if wanted is not None:
            for port in range(wanted, min(wanted + 100, 65_536)):
                if port not in taken and self._free(port):
                    return port
        span = _LAST - _FIRST + 1
        for step in range(span):
            port = _FIRST + (self._start - _FIRST + step) % span
            if port not in taken and self._free(port):
                return port
        raise EnvironmentProblemError(
            f"no free port between {_FIRST} and {_LAST}", where=name, remedy="Stop some servers of this machine."
        )

    def _save(self) -> None:
        write_json(self._path, self._ports)
