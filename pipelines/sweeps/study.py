"""The trials of a sweep in Optuna's storage: which come next, what became of each, and which a kill left open."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.contracts.errors import EnvironmentProblemError, require_extra
from slipway.pipelines.sweeps import hyperband
from slipway.pipelines.sweeps.records import TrialRecord
from slipway.pipelines.sweeps.search_space import (
    FIXED_DESIGNS,
    as_text,
    design_point,
    distributions,
    make_sampler,
    settings_of,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_RECORD, _NUMBER, _ATTEMPTS, _RUNG = "record", "number", "attempts", "rung"


class SweepStudy:
    """The study of one sweep.

    Args:
        file: The SQLite database; it is made if it is not there.
        document: The Experiment.

    Raises:
        EnvironmentProblemError: Optuna is not installed, or the database cannot be used.
    """

    def __init__(self, file: Path, document: Mapping[str, Any]) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise require_extra("optuna", "tune") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._document = document
        self._space = distributions(document)
        self.maximize = document["spec"]["objective"]["type"] == "maximize"
        algorithm = document["spec"]["algorithm"]
        self._algorithm: str = algorithm["algorithmName"]
        self._settings = settings_of(algorithm)
        try:
            self._study: Study = optuna.create_study(
                storage=f"sqlite:///{file}",
                study_name=document["metadata"]["name"],
                direction=document["spec"]["objective"]["type"],
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(),
            )
        except Exception as error:
            raise EnvironmentProblemError(
                f"the trials that were done cannot be read ({type(error).__name__}: {error})",
                where=str(file),
                remedy="Free space, or remove the file to begin this sweep anew.",
            ) from error

    def reopen(self) -> int:
        """Puts back the trials that ran when the sweep was killed, and returns their number."""
        from optuna.trial import TrialState

        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            marks = dict(trial.user_attrs)
            if _RECORD in marks:
                self._end(trial.number, TrialRecord.model_validate(marks[_RECORD]))
                continue
            self._study.tell(trial.number, state=TrialState.FAIL)
            # Killed between the two writes that make a trial, it has no number, and nobody had begun it.
            if _NUMBER in marks:
                self._study.enqueue_trial(
                    trial.params, user_attrs={**marks, _ATTEMPTS: int(marks.get(_ATTEMPTS, 1)) + 1}
                )
        return sum(_RECORD not in trial.user_attrs for trial in left)

    def records(self) -> list[TrialRecord]:
        """Returns the trials that have ended, in the order of their numbers."""
        found = [
            TrialRecord.model_validate(trial.user_attrs[_RECORD])
            for trial in self._own()
            if _RECORD in trial.user_attrs
        ]
        return sorted(found, key=lambda record: record.number)

    def started(self) -> int:
        """Returns how many trials were begun, those that wait to be begun again included."""
        return len(self._own())

    def is_exhausted(self) -> bool:
        """Says whether the algorithm has no trial left to suggest, now and later."""
        from optuna.trial import TrialState

        if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return False
        if self._algorithm == "hyperband":
            return hyperband.is_done(self._outcomes(), *self._resource(), maximize=self.maximize)
        return self._algorithm == "grid" and design_point(self._document, self._free_number()) is None

    def next_trial(self) -> tuple[Trial, TrialRecord, dict[str, str]] | None:
        """Begins the next trial; None if the algorithm waits for others to end, or has none left.

        Returns:
            Optuna's trial, its record so far, and its values as text.
        """
        from optuna.trial import TrialState

        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = int(waiting[0].user_attrs[_NUMBER]) if waiting else self._free_number()
        if not waiting and not self._enqueue(number):
            return None
        with warnings.catch_warnings():
            # Optuna tells of what is experimental or will change in it.
            warnings.simplefilter("ignore")
            self._study.sampler = make_sampler(self._document, number)
            trial = self._study.ask(self._space)
        if _NUMBER not in trial.user_attrs:
            trial.set_user_attr(_NUMBER, number)
        record = TrialRecord(
            name=f"{self._study.study_name}-{number:03d}",
            number=number,
            status="Running",
            parameters=dict(trial.params),
            attempts=int(trial.user_attrs.get(_ATTEMPTS, 1)),
        )
        return trial, record, as_text(trial.params)

    def tell(self, trial: Trial, record: TrialRecord) -> None:
        """Keeps what became of a trial."""

        for step, value in enumerate(record.curve):
            trial.report(value, step)
        # The record is whole before the trial counts as ended: a kill between the two begins it again.
        trial.set_user_attr(_RECORD, record.model_dump(mode="json"))
        self._end(trial.number, record)

    def _end(self, number: int, record: TrialRecord) -> None:
        from optuna.trial import TrialState

        if record.status == "Succeeded":
            self._study.tell(number, record.value)
        else:
            state = TrialState.PRUNED if record.status == "EarlyStopped" else TrialState.FAIL
            self._study.tell(number, state=state)

    def importances(self) -> dict[str, float]:
        """Returns the share of each parameter in how the good trials differ."""
        return _importances(self._study)

    def _own(self) -> list[FrozenTrial]:
        """Returns every trial but those that a kill cut off: they failed without a record; others stand for them."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.FAIL or _RECORD in trial.user_attrs]

    def _free_number(self) -> int:
        taken = {int(trial.user_attrs[_NUMBER]) for trial in self._own() if _NUMBER in trial.user_attrs}
        return next(number for number in itertools.count() if number not in taken)

    def _enqueue(self, number: int) -> bool:
        """Fixes the values of the next trial where the algorithm is one of ours; False if there is none now."""
        if self._algorithm in FIXED_DESIGNS:
            point = design_point(self._document, number)
            if point is not None:
                self._study.enqueue_trial(point, user_attrs={_NUMBER: number})
            return point is not None
        if self._algorithm != "hyperband":
            return True
        suggestion = hyperband.next_suggestion(self._outcomes(), *self._resource(), maximize=self.maximize)
        if suggestion is None:
            return False
        rung = suggestion.rung
        values = {**(suggestion.values or {}), self._settings["resource_name"]: rung.resource}
        self._study.enqueue_trial(values, user_attrs={_NUMBER: number, _RUNG: [rung.bracket, rung.step]})
        return True

    def _resource(self) -> tuple[float, float]:
        return float(self._settings["r_l"]), float(self._settings.get("eta", "3"))

    def _outcomes(self) -> list[hyperband.Outcome]:
        rows = []
        for trial in sorted(self._own(), key=lambda row: int(row.user_attrs.get(_NUMBER, 0))):
            if _RUNG not in trial.user_attrs:
                continue
            record = trial.user_attrs.get(_RECORD)
            bracket, step = trial.user_attrs[_RUNG]
            rows.append(
                hyperband.Outcome(
                    bracket=bracket,
                    step=step,
                    values=dict(trial.params),
                    finished=record is not None,
                    value=record["value"] if record is not None and record["status"] == "Succeeded" else None,
                )
            )
        return rows


def importances_of(document: Mapping[str, Any], records: Sequence[TrialRecord]) -> dict[str, float]:
    """Returns the share of each parameter in how the good trials differ, for trials that were run elsewhere."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise require_extra("optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=document["spec"]["objective"]["type"])
    space = distributions(document)
    for record in records:
        if record.status != "Succeeded" or record.value is None:
            continue
        try:
            study.add_trial(
                optuna.trial.create_trial(params=record.parameters, distributions=space, value=record.value)
            )
        except (ValueError, KeyError):
            # A value that the search space does not have: Katib's algorithms round in their own ways.
            continue
    return _importances(study)


def _importances(study: Study) -> dict[str, float]:
    """PED-ANOVA (Watanabe et al. 2023)."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError, optuna.exceptions.OptunaError):
        return {}
    return {name: float(share) for name, share in found.items()}
