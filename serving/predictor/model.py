"""A Slipway bundle as a KServe model: queries in, ranked items out, with reasons wherever it had to fall back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slipway.contracts.bundle import read_bundle
from slipway.contracts.errors import BundleError
from slipway.contracts.events import RequestSigner
from slipway.contracts.metrics import SHADOW_HEADER, SMOKE_TEST_HEADER
from slipway.models.families import load_model
from slipway.models.ranking import recommend
from slipway.serving.predictor.batching import MicroBatcher
from slipway.serving.predictor.events import AnsweredRequest, EventSender, trace_id_of
from slipway.serving.predictor.kserve_sdk import InferOutput, InferResponse, Model
from slipway.serving.predictor.metrics import FEATURE_STATUSES, PredictorMetrics
from slipway.serving.predictor.queries import PredictionRequest, Query
from slipway.serving.predictor.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slipway.contracts.features import ViewSchema
    from slipway.feature_store.online import OnlineStore
    from slipway.models.interface import Recommender

_UNREACHABLE = FEATURE_STATUSES.index("unreachable")
_EMPTY: Mapping[str, Any] = {}


@dataclass(slots=True)
class Prediction:
    """The answer for one user. `features`: present, default, unreachable, or none where the model reads none."""

    user: str
    items: list[str]
    scores: list[float]
    fallback: str | None
    features: str


@dataclass(slots=True)
class Answer:
    """The answer to a request, before it takes the form of a protocol."""

    request: PredictionRequest
    request_id: str
    predictions: list[Prediction] = field(default_factory=list)


class BundleModel(Model):  # type: ignore[misc]
    """Serves one bundle.

    A project's own predictor subclasses this and overrides `preprocess`, `predict` or `postprocess`, as with any
    KServe model: `predict` takes a PredictionRequest and returns an Answer, and may be changed around
    `await super().predict(...)`.

    Args:
        settings: The process's settings.
        metrics: Where it counts.
        signer: Makes request ids.
        sender: Takes the events of predictions; None sends none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: PredictorMetrics,
        signer: RequestSigner,
        sender: EventSender | None = None,
    ) -> None:
        super().__init__(settings.model)
        self.settings = settings
        self.metrics = metrics
        self.version = settings.version
        self._signer = signer
        self._sender = sender
        self._recommender: Recommender
        self._views: tuple[ViewSchema, ...] = ()
        self._store: OnlineStore | None = None
        self._batches: MicroBatcher[Query, Prediction] = MicroBatcher(self._answer, workers=settings.threads)

    def load(self) -> bool:
        """Loads the bundle after checking it, and scores once so that the first request finds everything warm.

        Raises:
            BundleError: The bundle is corrupt, altered, of another format, or reads what a predictor cannot give.
        """
        manifest = read_bundle(self.settings.bundle, verify=True)
        self._recommender = load_model(self.settings.bundle, verify=False, base=Path.cwd())
        self._views = manifest.views
        for view in self._views:
            if view.entity != "user":
                raise BundleError(
                    f"the model reads the view {view.name!r} by {view.entity}; a predictor reads views by user only",
                    where=str(self.settings.bundle),
                )
        if self._views and self.settings.redis:
            from slipway.feature_store.online import OnlineStore

            self._store = OnlineStore(self.settings.redis, self.settings.feature_project or self.settings.model)
        self.metrics.bundle_loaded(manifest)
        users = self._recommender.users
        warm = users.ids([0]) if len(users) else ["nobody"]
        for count in (1, 32):
            self._rank([Query(user, self.settings.limits.default_k) for user in warm * count], _EMPTY)
        if self._store is not None:
            self._store.read_many(self._views, warm)  # opens the connection
        self.ready = True
        return True

    def stop(self) -> None:
        """Lets the scoring threads end."""
        super().stop()
        self._batches.close()

    async def predict(self, payload: PredictionRequest, headers: dict[str, str] | None = None) -> Answer:
        """Answers a checked request; one of the smoke test leaves no trace in counters and events."""
        started = time.perf_counter()
        predictions = await self._batches.submit(payload.queries)
        issued = time.time()
        answer = Answer(payload, self._signer.issue(self.name, self.version, issued), predictions)
        headers = headers or {}
        if SMOKE_TEST_HEADER in headers:
            return answer
        self._count(predictions)
        self._send(answer, issued, (time.perf_counter() - started) * 1000, headers)
        return answer

    async def postprocess(
        self, result: Answer, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Gives an answer the form of the protocol that asked."""
        del headers, response_headers
        return self._to_v1(result) if result.request.protocol == "v1" else self._to_v2(result)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Returns the V2 metadata of the input."""
        return [{"name": "user", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Returns the V2 metadata of the outputs."""
        return [
            {"name": "item", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "score", "datatype": "FP64", "shape": [-1, -1]},
            {"name": "count", "datatype": "INT32", "shape": [-1]},
            {"name": "fallback", "datatype": "BYTES", "shape": [-1]},
            {"name": "features", "datatype": "BYTES", "shape": [-1]},
        ]

    def _answer(self, queries: Sequence[Query]) -> list[Prediction]:
        """Reads features and ranks; runs in a scoring thread."""
        if not self._views:
            return self._rank(queries, _EMPTY)
        values, worst = self._read_features([query.user for query in queries])
        predictions = self._rank(queries, values)
        for prediction, status in zip(predictions, worst.tolist(), strict=True):
            if status == 0:
                prediction.features = "present"
            elif status == _UNREACHABLE:
                prediction.features = "unreachable"
                prediction.fallback = prediction.fallback or "features_unreachable"
            else:
                prediction.features = "default"
                prediction.fallback = prediction.fallback or "features_missing"
        return predictions

    def _read_features(self, users: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint8]]:
        """Returns the values by view, NaN where there are none, and each user's worst status over the views."""
        worst = np.zeros(len(users), dtype=np.uint8)
        if self._store is None:
            worst[:] = _UNREACHABLE
            for view in self._views:
                self.metrics.features_read(view.name, (0, 0, 0, len(users)), None)
            return {}, worst
        started = time.perf_counter()
        rows_of_view = self._store.read_many(self._views, users, time.time())
        self.metrics.feature_read.observe(time.perf_counter() - started)
        values: dict[str, NDArray[np.float32]] = {}
        for view in self._views:
            rows = rows_of_view[view.name]
            values[view.name] = rows.values
            np.maximum(worst, rows.status, out=worst)
            present = rows.age_seconds[rows.status == 0]
            oldest = float(present.max()) if len(present) else None
            self.metrics.features_read(view.name, np.bincount(rows.status, minlength=4).tolist(), oldest)
        return values, worst

    def _rank(self, queries: Sequence[Query], values: Mapping[str, NDArray[np.float32]]) -> list[Prediction]:
        """Ranks with one matrix product for all queries that treat seen items alike."""
        flags = {query.exclude_seen for query in queries}
        if len(flags) == 1:
            return self._rank_alike(queries, values, flags.pop())
        predictions: list[Prediction | None] = [None] * len(queries)
        for flag in flags:
            rows = [row for row, query in enumerate(queries) if query.exclude_seen is flag]
            part = {name: array[rows] for name, array in values.items()}
            for row, prediction in zip(rows, self._rank_alike([queries[row] for row in rows], part, flag), strict=True):
                predictions[row] = prediction
        return [prediction for prediction in predictions if prediction is not None]

    def _rank_alike(
        self, queries: Sequence[Query], values: Mapping[str, NDArray[np.float32]], exclude_seen: bool
    ) -> list[Prediction]:
        exclude = [query.exclude for query in queries]
        ranked = recommend(
            self._recommender,
            [query.user for query in queries],
            k=max(query.k for query in queries),
            features=values,
            exclude_seen=exclude_seen,
            exclude=exclude if any(exclude) else None,
        )
        # The order is total, so the k best are the first k of any longer answer.
        return [
            Prediction(query.user, items[: query.k], scores[: query.k], fallback, "none")
            for query, items, scores, fallback in zip(
                queries, ranked.items, ranked.scores, ranked.fallback, strict=True
            )
        ]

    def _count(self, predictions: Sequence[Prediction]) -> None:
        metrics = self.metrics
        metrics.predictions.inc(len(predictions))
        for prediction in predictions:
            if prediction.scores:
                metrics.scores.observe(prediction.scores[0])
            else:
                metrics.empty.inc()
            if prediction.fallback is not None:
                metrics.fallbacks[prediction.fallback].inc()

    def _send(self, answer: Answer, seconds: float, latency_ms: float, headers: Mapping[str, str]) -> None:
        if self._sender is None:
            return
        predictions = answer.predictions
        self._sender.put(
            AnsweredRequest(
                request_id=answer.request_id,
                seconds=seconds,
                latency_ms=latency_ms,
                caller_id=answer.request.caller_id,
                users=[prediction.user for prediction in predictions],
                items=[prediction.items for prediction in predictions],
                scores=[prediction.scores for prediction in predictions],
                fallbacks=[prediction.fallback for prediction in predictions],
                features=[prediction.features for prediction in predictions],
                trace_id=trace_id_of(headers.get("traceparent")),
                shadow=SHADOW_HEADER in headers,
            )
        )

    def _to_v1(self, answer: Answer) -> dict[str, Any]:
        return {
            "predictions": [
                {
                    "user": prediction.user,
                    "items": prediction.items,
                    "scores": prediction.scores,
                    "fallback": prediction.fallback,
                    "features": prediction.features,
                }
                for prediction in answer.predictions
            ],
            "model_name": self.name,
            "model_version": self.version,
            "request_id": answer.request_id,
        }

    def _to_v2(self, answer: Answer) -> InferResponse:
        predictions = answer.predictions
        width = max((len(prediction.items) for prediction in predictions), default=0)
        rows = len(predictions)
        items = [item for p in predictions for item in [*p.items, *[""] * (width - len(p.items))]]
        scores = [score for p in predictions for score in [*p.scores, *[0.0] * (width - len(p.scores))]]
        source = answer.request.source
        outputs = {
            "item": ([rows, width], "BYTES", items),
            "score": ([rows, width], "FP64", scores),
            "count": ([rows], "INT32", [len(p.items) for p in predictions]),
            "fallback": ([rows], "BYTES", [p.fallback or "" for p in predictions]),
            "features": ([rows], "BYTES", [p.features for p in predictions]),
        }
        return InferResponse(
            response_id=source.id or answer.request_id,
            model_name=self.name,
            model_version=self.version,
            infer_outputs=[InferOutput(name, shape, kind, data) for name, (shape, kind, data) in outputs.items()],
            parameters={"request_id": answer.request_id},
            use_binary_outputs=source.use_binary_outputs,
            requested_outputs=source.request_outputs,
        )
