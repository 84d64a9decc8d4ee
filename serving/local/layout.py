"""Where the plane of one machine keeps its files: everything below `<project>/.slipway/serving/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlaneLayout:
    """Paths of one project's plane.

    Args:
        project: The folder that holds the project file.
    """

    project: Path

    @property
    def root(self) -> Path:
        """The plane's state folder."""
        return self.project.resolve() / ".slipway" / "serving"

    @property
    def desired(self) -> Path:
        return self.root / "desired.json"

    @property
    def observed(self) -> Path:
        return self.root / "observed.json"

    @property
    def settings(self) -> Path:
        """What the running supervisor was started with."""
        return self.root / "settings.json"

    @property
    def key_file(self) -> Path:
        """The key that signs request ids, readable by its owner alone."""
        return self.root / "request-id.key"

    @property
    def assignment(self) -> Path:
        """By what users are drawn; read by the processes that draw them."""
        return self.root / "assignment" / "assignment.json"

    @property
    def assignment_secret(self) -> Path:
        """The project's secret that users are hashed with, readable by its owner alone."""
        return self.root / "assignment" / "secret"

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.root / "supervisor.lock"

    @property
    def command_lock(self) -> Path:
        """Held by `up` and `down` while they work."""
        return self.root / "command.lock"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def processes(self) -> Path:
        """One record a process: pid, start time, command, ports."""
        return self.root / "processes"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def prometheus(self) -> Path:
        return self.root / "prometheus"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def feedback(self) -> Path:
        return self.root / "feedback"

    @property
    def rollouts(self) -> Path:
        return self.root / "rollouts"
