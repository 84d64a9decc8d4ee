"""Every family learns what was planted, gives the same bytes for the same seed, and goes on after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipway.contracts.bundle import bundle_digest
from slipway.contracts.errors import DataError, UsageError
from slipway.models.families import load_family, load_model, save_model
from slipway.models.interface import Recommender, TrainingData
from slipway.models.ranking import UNKNOWN_USER, recommend

if TYPE_CHECKING:
    from conftest import Planted

GROUPS = 3

FACTORISATION = ("matrix_factorization", {"factors": 8, "epochs": 6})
NEURAL = ("neural_collaborative_filtering", {"factors": 8, "hidden": [16, 8], "epochs": 12, "batch_size": 512})
LEARNERS = [FACTORISATION, NEURAL]


class KilledError(Exception):
    """Stands for the end of a process between two epochs."""


def fit(family: str, parameters: dict[str, Any], data: TrainingData, **options: Any) -> Recommender:
    return load_family(family).fit(data, parameters, seed=3, **options)


def share_of_own_group(planted: Planted, model: Recommender) -> float:
    users = model.users.ids(np.arange(len(model.users)))
    features = planted.with_features.user_features if model.views else {}
    answers = recommend(model, users, k=5, features=features, exclude_seen=False)
    groups = [planted.group_of_item[model.items.rows(items)] for items in answers.items]
    return float(np.mean([group == own for group, own in zip(groups, planted.group_of_user, strict=True)]))


@pytest.mark.parametrize(("family", "parameters"), LEARNERS)
@pytest.mark.parametrize("features", [False, True])
def test_recommendations_are_from_the_group_that_the_user_likes(
    planted: Planted, family: str, parameters: dict[str, Any], features: bool
) -> None:
    curve: list[float] = []
    data = planted.with_features if features else planted.data
    model = fit(family, parameters, data, on_epoch=lambda _epoch, values: curve.append(values["loss"]))
    assert share_of_own_group(planted, model) > 0.85
    assert len(curve) == parameters["epochs"]
    assert curve[-1] < curve[0]


def test_popularity_gives_everybody_the_most_taken_items(planted: Planted) -> None:
    model = fit("popularity", {}, planted.data)
    answer = recommend(model, ["u0000", "u0001", "stranger"], k=4, exclude_seen=False)
    counts = np.bincount(planted.data.item_rows, minlength=len(model.items))
    best = [f"i{item:04d}" for item in np.lexsort((np.arange(len(counts)), -counts))[:4]]
    assert answer.items == [best] * 3
    assert answer.fallback == [None, None, UNKNOWN_USER]


@pytest.mark.parametrize(("family", "parameters"), [*LEARNERS, ("popularity", {})])
def test_same_seed_gives_the_same_bytes_and_a_loaded_model_the_same_answers(
    planted: Planted, tmp_path: Path, family: str, parameters: dict[str, Any]
) -> None:
    data = planted.data if family == "popularity" else planted.with_features
    models = [fit(family, parameters, data) for _ in range(2)]
    manifests = [save_model(model, tmp_path / str(number)) for number, model in enumerate(models)]
    assert bundle_digest(manifests[0]) == bundle_digest(manifests[1])
    features = {view.name: data.user_features[view.name] for view in models[0].views}
    users = models[0].users.ids(np.arange(len(models[0].users)))
    loaded = load_model(tmp_path / "0")
    assert recommend(loaded, users, k=7, features=features) == recommend(models[0], users, k=7, features=features)
    assert manifests[0].counts.interactions == len(data.user_rows)


@pytest.mark.parametrize(("family", "parameters"), LEARNERS)
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes_and_curves(
    planted: Planted, tmp_path: Path, family: str, parameters: dict[str, Any]
) -> None:
    unbroken: list[tuple[int, dict[str, float]]] = []
    expected = fit(family, parameters, planted.with_features, on_epoch=lambda *epoch: unbroken.append(epoch))

    def kill(epoch: int, _values: dict[str, float]) -> None:
        if epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        fit(family, parameters, planted.with_features, on_epoch=kill, checkpoint=tmp_path)
    resumed: list[tuple[int, dict[str, float]]] = []
    model = fit(
        family, parameters, planted.with_features, on_epoch=lambda *epoch: resumed.append(epoch), checkpoint=tmp_path
    )
    assert resumed == unbroken
    for name, array in expected.to_arrays().items():
        assert array.tobytes() == model.to_arrays()[name].tobytes(), name


@pytest.mark.parametrize(("family", "parameters"), LEARNERS)
def test_a_measure_sees_the_model_of_each_epoch_and_changes_nothing(
    planted: Planted, family: str, parameters: dict[str, Any]
) -> None:
    seen: list[dict[str, np.ndarray]] = []

    def measure(model: Recommender) -> dict[str, float]:
        seen.append(model.to_arrays())
        return {"users": float(len(model.users))}

    curve: list[dict[str, float]] = []
    data = replace(planted.with_features, measure=measure)
    model = fit(family, parameters, data, on_epoch=lambda _epoch, values: curve.append(values))
    expected = fit(family, parameters, planted.with_features).to_arrays()
    assert len(seen) == parameters["epochs"]
    assert [values["users"] for values in curve] == [120.0] * len(seen)
    for name, array in expected.items():
        assert array.tobytes() == model.to_arrays()[name].tobytes() == seen[-1][name].tobytes(), name
    assert any(array.tobytes() != seen[0][name].tobytes() for name, array in expected.items())


def test_the_checkpoint_of_another_training_is_ignored(planted: Planted, tmp_path: Path) -> None:
    family, parameters = FACTORISATION
    fit(family, {**parameters, "factors": 4}, planted.data, checkpoint=tmp_path)
    (tmp_path / "other").mkdir()
    model = fit(family, parameters, planted.data, checkpoint=tmp_path)
    expected = fit(family, parameters, planted.data)
    assert model.to_arrays()["item_factors"].tobytes() == expected.to_arrays()["item_factors"].tobytes()


@pytest.mark.parametrize(("family", "parameters"), LEARNERS)
def test_a_shifted_feature_changes_the_answers_and_features_alone_answer_an_unknown_user(
    planted: Planted, family: str, parameters: dict[str, Any]
) -> None:
    model = fit(family, parameters, planted.with_features)
    values = planted.with_features.user_features["taste"]
    users = model.users.ids(np.arange(len(model.users)))
    before = recommend(model, users, k=10, features={"taste": values})
    after = recommend(model, users, k=10, features={"taste": values + 1})
    assert before.items != after.items

    tastes = np.eye(GROUPS, dtype=np.float32)
    answer = recommend(model, ["new"] * GROUPS, k=5, features={"taste": tastes})
    assert answer.fallback == [None] * GROUPS
    for group in range(GROUPS):
        assert (planted.group_of_item[model.items.rows(answer.items[group])] == group).mean() >= 0.6
    assert recommend(model, ["new"], k=5).fallback == [UNKNOWN_USER]


def test_missing_features_stand_for_their_defaults(planted: Planted) -> None:
    model = fit(*FACTORISATION, planted.with_features)
    defaults = np.zeros((1, GROUPS), dtype=np.float32)
    missing = recommend(model, ["u0001"], k=5, features={"taste": np.full_like(defaults, np.nan)})
    assert missing == recommend(model, ["u0001"], k=5, features={"taste": defaults})
    assert missing == recommend(model, ["u0001"], k=5)
    with pytest.raises(ValueError, match="features of taste"):
        recommend(model, ["u0001"], k=5, features={"taste": defaults[:, :2]})


@pytest.mark.parametrize("family", [FACTORISATION[0], NEURAL[0], "popularity"])
def test_an_unknown_parameter_is_refused_with_the_nearest_name(planted: Planted, family: str) -> None:
    with pytest.raises(UsageError) as raised:
        fit(family, {"factor": 8}, planted.data)
    assert "'factor' is no parameter" in str(raised.value)
    assert ("'factors'" in str(raised.value)) == (family != "popularity")


@pytest.mark.parametrize(
    ("family", "parameters"),
    [(FACTORISATION[0], {"factors": 0}), (FACTORISATION[0], {"regularization": "much"}), (NEURAL[0], {"hidden": []})],
)
def test_a_parameter_out_of_range_is_refused(planted: Planted, family: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(parameters))):
        fit(family, parameters, planted.data)


def test_weights_that_are_no_confidence_are_refused(planted: Planted) -> None:
    bad = TrainingData(
        **{**vars(planted.data), "weights": np.full(len(planted.data.weights), np.nan, dtype=np.float32)}
    )
    with pytest.raises(DataError, match="weights"):
        fit("matrix_factorization", {"alpha": 1.0}, bad)
    fit("matrix_factorization", {"alpha": 0.5, "epochs": 1}, planted.data)
