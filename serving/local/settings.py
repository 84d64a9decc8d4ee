"""Settings of one plane, taken from the project file by `slipway up` and kept for its supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.errors import ArtifactError
from slipway.contracts.files import write_atomically
from slipway.serving.local.layout import PlaneLayout

MEBIBYTE = 1 << 20


class PlaneSettings(BaseModel):
    """How a project's plane is run.

    Attributes:
        project: The project's name; also the namespace of its features in the online store.
        directory: Folder of the project file.
        replicas: Processes an arm.
        ports: Ports that the user set; one of them in use by someone else is an error.
        gateway_port: Port of the gateway if it is free and the user set none.
        scrape_interval: Seconds between two scrapes.
        feedback_wait: Seconds after a prediction in which a click counts for it.
        request_expiry: Seconds after which feedback is refused.
        maximum_body: Greatest request body in bytes.
        maximum_in_flight: Requests that a predictor answers at a time.
        feedback_values: Types of feedback whose values are added up, with the largest that counts.
        capture_retention_days: Days for which captured predictions and feedback are kept.
        drain_seconds: Longest wait for the requests in flight of a process that is taken out.
        grace_seconds: Wait between asking a process to stop and ending it.
        log_bytes: Size at which a log is rotated; `log_backups` older ones are kept.
        predictor_command: Program and first arguments of a predictor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    directory: Path
    replicas: int = Field(default=2, ge=1, le=64)
    ports: dict[str, int] = Field(default_factory=dict)
    gateway_port: int = 8080
    scrape_interval: float = Field(default=1.0, gt=0)
    feedback_wait: float = Field(default=2.0, ge=0)
    request_expiry: float = Field(default=3600.0, gt=0)
    maximum_body: int = Field(default=MEBIBYTE, gt=0)
    maximum_in_flight: int = Field(default=128, gt=0)
    capture_retention_days: float = Field(default=30.0, gt=0)
    feedback_values: dict[str, float] = Field(default_factory=dict)
    drain_seconds: float = 15.0
    grace_seconds: float = 20.0
    log_bytes: int = 10 * MEBIBYTE
    log_backups: int = 3
    predictor_command: tuple[str, ...] = (sys.executable, "-m", "slipway.serving.predictor")
    collector: bool = True
    controller: bool = True

    @property
    def layout(self) -> PlaneLayout:
        """Where the plane keeps its files."""
        return PlaneLayout(self.directory)


def write_settings(settings: PlaneSettings) -> None:
    """Keeps the settings for the supervisor."""
    write_atomically(settings.layout.settings, settings.model_dump_json(indent=2) + "\n")


def read_settings(project: Path) -> PlaneSettings:
    """Returns the settings that `slipway up` kept.

    Raises:
        ArtifactError: There are none, or they are of another version of Slipway.
    """
    path = PlaneLayout(project).settings
    try:
        return PlaneSettings.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError("no settings", where=str(path), remedy="Start the plane with `slipway up`.") from error
    except ValidationError as error:
        raise ArtifactError(
            f"not the settings of a plane ({error.errors()[0]['msg']})",
            where=str(path),
            remedy="Run `slipway down`, then `slipway up`.",
        ) from error
