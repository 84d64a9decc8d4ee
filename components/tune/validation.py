"""How good a model is while it is trained: the objective on the held-out part, by the code of the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slipway.components.evaluate.judge import columns_for, judge
from slipway.components.evaluate.task import read_task
from slipway.components.latest_features import LatestFeatures
from slipway.contracts.evaluation import LIST_METRICS, EvaluationSpec, MetricName
from slipway.models import metrics
from slipway.models.interface import Recommender


class ValidationMetric:
    """The objective of a model that is not yet done, equal to what the evaluation finds for it.

    Args:
        features: The artifact whose held-out part is ranked for.
        evaluation: What counts as relevant, and which candidates are ranked.
        metric: The objective, such as ndcg@10.
        base: Folder that a candidates source is relative to.

    Raises:
        ArtifactError: The artifact is not whole.
        DataError: Nobody can be evaluated.
    """

    def __init__(self, features: Path, evaluation: EvaluationSpec, metric: str, base: Path) -> None:
        self._features = features
        self._name = metric
        self._metric = MetricName.parse(metric)
        self._task = read_task(features, evaluation, base)
        self._exclude_seen = evaluation.exclude_seen
        # Lists as long as those of the evaluation, so that the ranking is the very same.
        self._ks = evaluation.k
        self._percentiles = metrics.popularity_percentiles(self._task.popularity)

    def __call__(self, model: Recommender) -> dict[str, float]:
        """Returns {metric: value}; empty where it has none."""
        judged = judge(
            model,
            self._task,
            ks=self._ks,
            features=LatestFeatures(self._features, model.views).of,
            exclude_seen=self._exclude_seen,
            item_slices={},
        )
        if self._metric.name in LIST_METRICS:
            assert self._metric.k is not None
            value = (
                metrics.coverage(judged.lists, self._metric.k, len(self._task.items))
                if self._metric.name == "coverage"
                else metrics.mean_popularity_percentile(judged.lists, self._metric.k, self._percentiles)
            )
        else:
            column = judged.table[:, columns_for(self._ks).index(self._name)]
            known = column[~np.isnan(column)]
            value = float(known.mean()) if len(known) else float("nan")
        return {self._name: float(value)} if np.isfinite(value) else {}
