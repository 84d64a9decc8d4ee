"""The `sweep:` part of a project file: which parameters are searched, by what, for which metric, and how trials run.

It follows Katib's Experiment, so that a sweep means the same on one machine and on a cluster; what Katib would refuse,
or silently take for something else, is refused here.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from slipway.contracts.durations import Duration
from slipway.contracts.evaluation import MetricName
from slipway.contracts.project.kubernetes import PlacementSpec
from slipway.contracts.split import SplitSpec

ALGORITHMS = ("random", "tpe", "cmaes", "sobol", "grid", "hyperband", "bayesianoptimization")

# Katib's services for the others sample such a parameter uniformly, without a word.
_KNOW_LOG_SCALE = ("random", "tpe", "bayesianoptimization")
_GRID_LIMIT = 1_000_000

Scalar = bool | int | float | str


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ObjectiveSpec(_Spec):
    """The metric of the evaluation that decides, and which way; at `goal` the sweep ends early."""

    metric: str
    type: Literal["maximize", "minimize"] = "maximize"
    goal: float | None = None

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        MetricName.parse(metric)
        return metric


class AlgorithmSpec(_Spec):
    """What chooses the parameters of the next trial.

    `seed` is that of its draws. `resource`, `maximum_resource` and `eta` belong to hyperband (Li et al. 2018): the
    integer parameter that says how much a trial may cost, what the best get of it, and which part goes on.
    """

    name: Literal["random", "tpe", "cmaes", "sobol", "grid", "hyperband", "bayesianoptimization"] = "tpe"
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    resource: str | None = None
    maximum_resource: int | None = Field(default=None, ge=2, le=100_000)
    eta: int = Field(default=3, ge=2, le=10)

    @model_validator(mode="after")
    def _hyperband_has_its_resource(self) -> Self:
        if (self.name == "hyperband") != (self.resource is not None) or (self.resource is None) != (
            self.maximum_resource is None
        ):
            raise ValueError(
                "hyperband needs `resource` (such as epochs) and `maximum_resource`, and only hyperband has them"
            )
        return self

    @property
    def widest_rung(self) -> int:
        """The number of trials that hyperband's first rung starts at once."""
        assert self.maximum_resource is not None
        return int(self.eta ** hyperband_brackets(self.maximum_resource, self.eta))


def hyperband_brackets(maximum_resource: float, eta: float) -> int:
    """Returns s_max of hyperband: the largest s with eta ** s <= maximum_resource."""
    count = 0
    while eta ** (count + 1) <= maximum_resource:
        count += 1
    return count


class ParameterSpec(_Spec):
    """One dimension of the search space.

    `int` and `double` have `min` and `max`, both included, and may have `log` or `step`; `categorical` has `values` of
    any kind, `discrete` has numbers. A value may be a list: `[[64, 32], [32]]` for the widths of layers.
    """

    type: Literal["double", "int", "categorical", "discrete"]
    min: float | None = None
    max: float | None = None
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    values: tuple[Scalar | tuple[Scalar, ...], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _numbers_with_exponents(cls, content: Any) -> Any:
        """Reads 1e-5 as the number that it is; YAML takes it for text."""
        if (
            not isinstance(content, dict)
            or content.get("type") != "discrete"
            or not isinstance(content.get("values"), list)
        ):
            return content
        return content | {
            "values": [read_text(value) if isinstance(value, str) else value for value in content["values"]]
        }

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type in ("categorical", "discrete"):
            self._check_list()
        else:
            self._check_range()
        return self

    def _check_list(self) -> None:
        given = [name for name in ("min", "max", "step") if getattr(self, name) is not None]
        if given or self.log:
            raise ValueError(f"{self.type} has `values`, and no {', '.join([*given, *(['log'] if self.log else [])])}")
        if len(self.values) < 2:
            raise ValueError(f"the range is empty: {self.type} needs at least two `values`")
        texts = [text_of(value) for value in self.values]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        if twice:
            raise ValueError(f"`values` holds {', '.join(twice)} twice")
        for value, text in zip(self.values, texts, strict=True):
            if self.type == "discrete" and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"discrete has numbers, and {value!r} is none; write categorical")
            # Katib puts a value into the text of the trial's manifest as it is.
            if any(character in text for character in '"\\$\n') or read_text(text) != _plain(value):
                raise ValueError(f"{value!r} cannot be handed to a trial as text: no quotes, $, or numbers in quotes")

    def _check_range(self) -> None:
        if self.values:
            raise ValueError(f"{self.type} has `min` and `max`, and no values")
        if self.min is None or self.max is None:
            raise ValueError(f"{self.type} needs `min` and `max`")
        if self.min > self.max:
            raise ValueError(f"min is {self.min:g}, above max, which is {self.max:g}: change places")
        if self.min == self.max:
            raise ValueError(f"the range is empty: min and max are {self.min:g}; set it in model.parameters instead")
        if self.log and self.min <= 0:
            raise ValueError(f"a log scale has no {self.min:g}: `min` must be above 0")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other")
        if self.step is not None and self.step > self.max - self.min:
            raise ValueError(f"step {self.step:g} is wider than the range from {self.min:g} to {self.max:g}")
        numbers = [self.min, self.max, *([self.step] if self.step is not None else [])]
        if self.type == "int" and any(number != int(number) for number in numbers):
            raise ValueError("int has whole numbers; write double for others")

    def grid(self) -> tuple[Any, ...] | None:
        """Returns every value that a grid has in this dimension; None if there are infinitely many."""
        if self.type in ("categorical", "discrete"):
            return tuple(_plain(value) for value in self.values)
        assert self.min is not None
        assert self.max is not None
        if self.type == "double" and self.step is None:
            return None
        step = self.step or 1.0
        # The little more mends 0.3 / 0.1 < 3.
        count = math.floor((self.max - self.min) / step + 1e-9) + 1
        if count > _GRID_LIMIT:
            return None
        points = [self.min + index * step for index in range(count)]
        return tuple(int(point) for point in points) if self.type == "int" else tuple(float(p) for p in points)


class EarlyStoppingSpec(_Spec):
    """Katib's medianstop: a trial ends when the best that it has reported is worse than the median of the others.

    The median is over the mean of the first `start_step` reports of each trial that succeeded; it counts once there are
    `min_trials` of these. A trial reports what its family tells of the objective after each epoch.
    """

    name: Literal["medianstop"] = "medianstop"
    min_trials: int = Field(default=3, ge=1, le=1000)
    start_step: int = Field(default=4, ge=1, le=10_000)


class TrialSpec(_Spec):
    """How a trial runs on a cluster.

    `resources` stand over those of `kubernetes.steps.tune`. `runtime` is the training runtime of a TrainJob. `features`
    is where the artifact lies that trials train and choose on: `s3://...`, or a folder as a pod sees it. By default it
    is put below `kubernetes.pipeline_root`; without an object store it is looked for at `tuning/features` in the
    project's volume. `timeout` holds on one machine too.
    """

    kind: Literal["Job", "TrainJob"] = "Job"
    resources: PlacementSpec = PlacementSpec()
    runtime: str = Field(default="torch-distributed", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    features: str | None = Field(default=None, pattern=r"^(s3:/)?/[\w./=-]+$")
    timeout: Duration = timedelta(hours=1)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _name_or_part(model: type[BaseModel], names: Sequence[str]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string", "enum": list(names)}, model.model_json_schema()]})


class SweepSpec(_Spec):
    """A search for better values of `model.parameters`.

    Trials never see the project's held-out part: they choose on a part of the training data, held out by `validation`
    (by default like the project's own split; where that has a fixed cut or a column, the last fifth of each user's
    events). `max_failed_trials` failures end the sweep as failed.
    """

    objective: ObjectiveSpec
    algorithm: Annotated[AlgorithmSpec, BeforeValidator(_named), _name_or_part(AlgorithmSpec, ALGORITHMS)] = (
        AlgorithmSpec()
    )
    parameters: dict[str, ParameterSpec] = Field(min_length=1)
    parallel_trials: int = Field(default=2, ge=1, le=1000)
    max_trials: int = Field(default=20, ge=1, le=100_000)
    max_failed_trials: int = Field(default=3, ge=1)
    early_stopping: (
        Annotated[EarlyStoppingSpec, BeforeValidator(_named), _name_or_part(EarlyStoppingSpec, ("medianstop",))] | None
    ) = None
    validation: SplitSpec | None = None
    trial: TrialSpec = TrialSpec()

    @model_validator(mode="before")
    @classmethod
    def _short_sweeps(cls, content: Any) -> Any:
        """Lowers the defaults of the other counts to max_trials, so that a sweep of one trial needs one line."""
        most = content.get("max_trials") if isinstance(content, dict) else None
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            return content
        return {"parallel_trials": min(2, most), "max_failed_trials": min(3, most)} | content

    @field_validator("parameters")
    @classmethod
    def _names(cls, parameters: dict[str, ParameterSpec]) -> dict[str, ParameterSpec]:
        for name in parameters:
            if not name.isidentifier() or not name.isascii():
                raise ValueError(f"{name!r} is no name of a parameter: letters, digits and _ only")
        return parameters

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.max_failed_trials > self.max_trials:
            raise ValueError(f"max_failed_trials is {self.max_failed_trials}, above max_trials, {self.max_trials}")
        if self.parallel_trials > self.max_trials:
            raise ValueError(f"parallel_trials is {self.parallel_trials}, above max_trials, {self.max_trials}")
        return self

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Self:
        name = self.algorithm.name
        logarithmic = [key for key, spec in self.parameters.items() if spec.log]
        if logarithmic and name not in _KNOW_LOG_SCALE:
            raise ValueError(
                f"{name} knows no log scale in Katib, and {', '.join(logarithmic)} asks for one: "
                f"use {' or '.join(_KNOW_LOG_SCALE)}, or leave `log` out"
            )
        check = {
            "grid": self._check_grid,
            "cmaes": self._check_cmaes,
            "hyperband": self._check_hyperband,
            "bayesianoptimization": self._check_bayesian,
        }.get(name)
        if check is not None:
            check()
        return self

    def _check_grid(self) -> None:
        grids = {key: spec.grid() for key, spec in self.parameters.items()}
        endless = [key for key, grid in grids.items() if grid is None]
        if endless:
            raise ValueError(f"a grid needs a `step` for {', '.join(endless)}")
        points = math.prod(len(grid) for grid in grids.values() if grid is not None)
        if self.max_trials > points:
            raise ValueError(f"max_trials is {self.max_trials}, and the grid has {points} points: lower max_trials")

    def _check_cmaes(self) -> None:
        if sum(spec.type in ("int", "double") for spec in self.parameters.values()) < 2:
            raise ValueError("cmaes needs at least two parameters of type int or double")

    def _check_hyperband(self) -> None:
        own = self.algorithm
        spec = self.parameters.get(own.resource or "")
        if spec is None or spec.type != "int":
            raise ValueError(f"hyperband's resource {own.resource!r} must be among the parameters, as an int")
        assert own.maximum_resource is not None
        least = max(1, own.maximum_resource // own.widest_rung)
        if (spec.min or 0) > least or (spec.max or 0) < own.maximum_resource:
            raise ValueError(
                f"hyperband gives {own.resource} values from {least} to {own.maximum_resource}: "
                "its min and max must include them"
            )
        if self.parallel_trials < own.widest_rung:
            raise ValueError(
                f"hyperband with maximum_resource {own.maximum_resource} and eta {own.eta} starts {own.widest_rung} "
                f"trials at once: raise parallel_trials to {own.widest_rung}, or lower maximum_resource"
            )

    def _check_bayesian(self) -> None:
        odd = [key for key, spec in self.parameters.items() if (spec.type == "double") != spec.log and not spec.values]
        if odd:
            raise ValueError(
                f"bayesianoptimization in Katib takes every double on a log scale and every int on a linear one: "
                f"say so with `log` for {', '.join(odd)}, or use tpe"
            )


def text_of(value: Any) -> str:
    """Returns a value of a parameter as the text that Katib hands on; `read_text` reads it back."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def read_text(text: str) -> Any:
    """Returns the value of a categorical parameter that a text stands for."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def grid_points(parameters: dict[str, ParameterSpec], count: int) -> Sequence[dict[str, Any]]:
    """Returns the first `count` points of the grid, the last parameter moving fastest."""
    grids = [spec.grid() or () for spec in parameters.values()]
    return [dict(zip(parameters, point, strict=True)) for point in itertools.islice(itertools.product(*grids), count)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
