"""What a project file may say. Every field has a default that works, or is required; unknown fields are refused."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema, model_validator

from slipway.contracts.data import DataSpec
from slipway.contracts.durations import Duration
from slipway.contracts.evaluation import EvaluationSpec, GateSpec, gate_problems
from slipway.contracts.project.kubernetes import KubernetesSpec
from slipway.contracts.project.promotion import PromotionSpec
from slipway.contracts.project.schedules import BatchPredictionSpec, RetrainingSpec, ScheduleSpec
from slipway.contracts.project.sweep import SweepSpec
from slipway.contracts.project.training import TrainingSpec
from slipway.contracts.rollout import RolloutPolicy
from slipway.contracts.split import FeaturesSpec, SplitSpec

STEPS = ("observe", "extract", "validate", "featurize", "train", "evaluate", "register", "batch_predict")
STATE_FOLDER = ".slipway"

_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(value: Any) -> int:
    """Returns the number of bytes that `512KiB`, `1MiB` or a plain integer names.

    Raises:
        ValueError: The text is not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size; write a number and a unit: 512KiB, 1MiB, 2GiB")
    return int(match[1]) * _SIZES[match[2] or ""]


ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+\s*(B|KiB|MiB|GiB)?$"}]}),
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Spec):
    """The model family, its parameters, and the feature views that it reads.

    `family` is a built-in name or `module:Class` of the project's own folder; `parameters` are checked by the family.
    """

    family: str = Field(
        default="matrix_factorization",
        min_length=1,
        examples=["popularity", "matrix_factorization", "neural_collaborative_filtering", "my_model:MyRecommender"],
    )
    parameters: dict[str, Any] = Field(default_factory=dict)
    features: tuple[str, ...] = ()
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class StepSpec(_Spec):
    """How one kind of step is run: how long it may take, how often it is tried again, and after which pause."""

    timeout: Duration = timedelta(hours=1)
    retries: int = Field(default=1, ge=0, le=10)
    retry_backoff: Duration = timedelta(seconds=10)


class TrackingSpec(_Spec):
    """Where MLflow is. The default is SQLite in the project's state folder.

    `uri` may name an environment variable as `${NAME}`, so that credentials stay out of the file.
    """

    uri: str | None = None


class PortsSpec(_Spec):
    """Ports on loopback. A port that is given must be free; one that is left out is chosen from the free ones."""

    gateway: int | None = Field(default=None, ge=1, le=65535)
    prometheus: int | None = Field(default=None, ge=1, le=65535)
    redis: int | None = Field(default=None, ge=1, le=65535)


class ServingSpec(_Spec):
    """The serving plane: how many processes a version, what they answer, and how feedback is joined.

    `feedback_wait` is how long a request waits for its clicks before it is counted, with or without one.
    `maximum_in_flight` is how many requests a process answers at a time; further ones are told to come again (429).
    `predictor` is `module:Class` of the project's own folder, a subclass of the built-in predictor's model.
    """

    replicas: int = Field(default=2, ge=1, le=64)
    k: int = Field(default=10, ge=1, le=1000)
    feedback_wait: Duration = timedelta(minutes=30)
    request_expiry: Duration = timedelta(hours=24)
    maximum_body: ByteSize = Field(default=1 << 20, ge=1024, le=1 << 30)
    maximum_in_flight: int = Field(default=128, ge=1, le=100_000)
    scrape_interval: Duration = timedelta(seconds=1)
    capture_retention: Duration = timedelta(days=30)
    predictor: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    ports: PortsSpec = PortsSpec()

    @model_validator(mode="after")
    def _feedback_can_arrive(self) -> ServingSpec:
        if self.request_expiry < self.feedback_wait:
            raise ValueError(
                "request_expiry is shorter than feedback_wait: feedback that is waited for would be refused"
            )
        return self


class Project(_Spec):
    """A project file: data, features, model, evaluation, gates, serving and rollout of one model."""

    api_version: Literal["slipway.dev/v1alpha1"] = Field(alias="apiVersion")
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description="Lower-case letters, digits, hyphens.")
    data: DataSpec
    split: SplitSpec = SplitSpec()
    features: FeaturesSpec = FeaturesSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gates: tuple[GateSpec, ...] = ()
    steps: dict[
        Literal["observe", "extract", "validate", "featurize", "train", "evaluate", "register", "batch_predict"],
        StepSpec,
    ] = Field(default_factory=dict)
    tracking: TrackingSpec = TrackingSpec()
    serving: ServingSpec = ServingSpec()
    rollout: RolloutPolicy = RolloutPolicy()
    kubernetes: KubernetesSpec = KubernetesSpec()
    retraining: RetrainingSpec = RetrainingSpec()
    batch_prediction: BatchPredictionSpec | None = None
    schedules: tuple[ScheduleSpec, ...] = ()
    sweep: SweepSpec | None = None
    promotion: PromotionSpec = PromotionSpec()

    _path: Path = PrivateAttr(default=Path("slipway.yaml"))

    @model_validator(mode="after")
    def _parts_fit(self) -> Project:
        problems = [f"gates[{index}]: {problem}" for index, problem in gate_problems(self.evaluation, self.gates)]
        unknown = [view for view in self.model.features if view not in self.features.views]
        problems += [f"model.features: {view!r} is not among features.views" for view in unknown]
        problems += _schedule_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def located_at(self, path: Path) -> Project:
        """Returns this project, knowing that it was read from `path`."""
        self._path = path
        return self

    @property
    def path(self) -> Path:
        """The project file, absolute."""
        return self._path.absolute()

    @property
    def directory(self) -> Path:
        """The folder of the project file; relative sources and own modules are found from here."""
        return self.path.parent

    @property
    def state(self) -> Path:
        """The folder that holds everything Slipway writes for this project."""
        return self.directory / STATE_FOLDER

    def step(self, name: str) -> StepSpec:
        """Returns how the step is to be run; a step that the file does not name runs with the defaults."""
        return next((spec for step, spec in self.steps.items() if step == name), StepSpec())


def _schedule_problems(project: Project) -> list[str]:
    names = [schedule.name for schedule in project.schedules]
    problems = [f"schedules: two have the name {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    zone = project.kubernetes.scheduler_time_zone
    problems += [
        f"schedules: {schedule.name!r} is in {schedule.time_zone}, but recurring runs of Kubeflow Pipelines are in "
        f"{zone}: write scheduler: kubernetes"
        for schedule in project.schedules
        if schedule.scheduler == "kubeflow" and schedule.time_zone != zone
    ]
    if project.batch_prediction is None:
        problems += [
            f"schedules: {schedule.name!r} runs batch_prediction, which the file does not describe: add that part"
            for schedule in project.schedules
            if schedule.pipeline == "batch_prediction"
        ]
    return problems
