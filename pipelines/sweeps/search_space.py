"""The search space of an Experiment, for Optuna: distributions, samplers, and designs that are fixed beforehand.

Values are text, as Katib hands them to a trial. Lists are categorical, discrete ones too, as in Katib's own services.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slipway.contracts.errors import UsageError, require_extra

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

FIXED_DESIGNS = ("grid", "sobol")


def distributions(document: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Returns the distribution of each parameter of an Experiment."""
    return {row["name"]: _distribution(row) for row in document["spec"]["parameters"]}


def _distribution(row: Mapping[str, Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = row["feasibleSpace"]
    log = space.get("distribution") == "logUniform"
    step = space.get("step")
    if row["parameterType"] == "int":
        return IntDistribution(int(space["min"]), int(space["max"]), log=log, step=int(step) if step else 1)
    if row["parameterType"] == "double":
        return FloatDistribution(float(space["min"]), float(space["max"]), log=log, step=float(step) if step else None)
    return CategoricalDistribution(space["list"])


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the values that Optuna gave as the text that a trial gets."""
    return {name: value if isinstance(value, str) else repr(value) for name, value in values.items()}


def settings_of(part: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the settings of an algorithm, or of an early stopping, as a mapping."""
    return {row["name"]: row["value"] for row in (part or {}).get("algorithmSettings") or ()}


def make_sampler(document: Mapping[str, Any], number: int) -> BaseSampler:
    """Returns the sampler for one trial.

    Args:
        document: The Experiment.
        number: Of the trial. It seeds the draws together with the sweep's seed, so that a sweep that is resumed does
            not draw again what it drew before.

    Raises:
        EnvironmentProblemError: The algorithm needs a package that is not installed.
    """
    from optuna import samplers

    algorithm = document["spec"]["algorithm"]
    name = algorithm["algorithmName"]
    seed = (int(settings_of(algorithm).get("random_state", "42")) * 1_000_003 + number) % 2**32
    if name == "tpe":
        # Half of a short sweep must be left for what was learnt from the other half.
        startup = max(1, min(10, document["spec"]["maxTrialCount"] // 2))
        return samplers.TPESampler(seed=seed, n_startup_trials=startup)
    if name == "cmaes":
        _need("cmaes", "tune")
        return samplers.CmaEsSampler(seed=seed)
    if name == "bayesianoptimization":
        _need("torch", "neural")
        startup = max(1, min(10, document["spec"]["maxTrialCount"] // 2))
        return samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return samplers.RandomSampler(seed=seed)


def _need(package: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise require_extra(package, extra)


def design_point(document: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Returns the values of a trial of a fixed design, a grid or a Sobol sequence; None where the design has ended."""
    space = distributions(document)
    if document["spec"]["algorithm"]["algorithmName"] == "sobol":
        return _sobol_point(space, number)
    values = [list(_grid(distribution, name)) for name, distribution in space.items()]
    point = next(itertools.islice(itertools.product(*values), number, None), None)
    return None if point is None else dict(zip(space, point, strict=True))


def _grid(distribution: BaseDistribution, name: str) -> Iterator[Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    elif isinstance(distribution, IntDistribution):
        yield from range(distribution.low, distribution.high + 1, distribution.step)
    elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
        for index in range(math.floor((distribution.high - distribution.low) / distribution.step + 1e-9) + 1):
            yield distribution.low + index * distribution.step
    else:
        raise UsageError("a grid needs a step", where=f"sweep.parameters.{name}")


def _sobol_point(space: Mapping[str, BaseDistribution], number: int) -> dict[str, Any]:
    """Returns a point of the sequence (Sobol 1967, directions of Joe & Kuo 2008); the first is the middle."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(d=len(space), scramble=False)
    # The sequence begins in the corner, where every parameter is at its end: that point is left out.
    sequence.fast_forward(number + 1)
    shares: Sequence[float] = sequence.random(1)[0]
    return {name: _at(space[name], float(share)) for name, share in zip(space, shares, strict=True)}


def _at(distribution: Any, share: float) -> Any:
    """Returns the value that lies at a share, from 0 to 1, of a distribution."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(share * len(distribution.choices)), len(distribution.choices) - 1)]
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        count = (high - low) // step + 1
        return low + min(int(share * count), count - 1) * step
    if step is not None:
        count = math.floor((high - low) / step + 1e-9) + 1
        return low + min(int(share * count), count - 1) * step
    return low + share * (high - low)
