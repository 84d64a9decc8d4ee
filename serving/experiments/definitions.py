"""The files of experiments: their definitions in YAML, and tables of counts in CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.contracts.errors import DataError, UsageError
from slipway.serving.experiments.analysis import ArmCounts, Window
from slipway.serving.experiments.layers import LAYER_BUCKETS, Experiment, Layers

COLUMNS = ("experiment", "window", "arm", "users", "events")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _ExperimentPart(_Part):
    name: str
    layer: str
    arms: dict[str, float]
    control: str | None = None
    buckets: tuple[int, int] = Field((0, LAYER_BUCKETS), description="First bucket and the one after the last.")
    changes: tuple[str, ...] = ()


class _File(_Part):
    salt: str = Field(min_length=1)
    experiments: tuple[_ExperimentPart, ...]


def load_layers(path: Path) -> Layers:
    """Reads experiments from YAML.

        salt: films-2026
        experiments:
          - {name: warmer-ranking, layer: ranking, arms: {now: 50, warmer: 50}, buckets: [0, 500],
             changes: [ranker.temperature]}

    Raises:
        UsageError: The file is absent or of another form; names the field.
        RefusedError: Two experiments conflict.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = _File.model_validate(document)
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror})", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"it is not YAML ({str(error)[:200]})", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{field}: {first['msg']}", where=str(path)) from error
    return Layers(
        file.salt,
        [
            Experiment(part.name, part.layer, part.arms, part.control, *part.buckets, frozenset(part.changes))
            for part in file.experiments
        ],
    )


def load_counts(path: Path, layers: Layers) -> list[tuple[Experiment, Sequence[Window]]]:
    """Reads counts from CSV with the columns experiment, window, arm, users and events.

    A user counts in one window, that in which the experiment met them first. Windows are taken in the order in which
    they appear; experiments without a row are left out.

    Raises:
        DataError: A column is missing, a row is no count or comes twice, or an experiment is not defined.
    """
    windows: dict[str, dict[str, dict[str, ArmCounts]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"the column {min(missing)!r} is missing",
                    where=str(path),
                    remedy=f"Give the columns {', '.join(COLUMNS)}.",
                )
            for number, row in enumerate(reader, 2):
                window = windows.setdefault(row["experiment"], {}).setdefault(row["window"], {})
                if row["arm"] in window:
                    raise DataError(
                        f"arm {row['arm']!r} comes twice in window {row['window']!r}", where=f"{path}, line {number}"
                    )
                window[row["arm"]] = _counts(row["users"], row["events"], f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"it cannot be read ({error})", where=str(path)) from error
    known = {experiment.name: experiment for experiment in layers.experiments}
    for name in windows:
        if name not in known:
            raise DataError(
                f"experiment {name!r} is not defined", where=str(path), remedy="Define it, or drop its rows."
            )
    return [(known[name], list(by_window.values())) for name, by_window in windows.items()]


def _counts(users: str | None, events: str | None, where: str) -> ArmCounts:
    try:
        counts = ArmCounts(int(users or ""), int(events or ""))
    except ValueError:
        raise DataError(f"users {users!r} and events {events!r} must be whole numbers", where=where) from None
    if not 0 <= counts.events <= counts.users:
        raise DataError(f"{counts.events} events of {counts.users} users cannot be", where=where)
    return counts
