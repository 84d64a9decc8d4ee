"""A bundle that is not exactly what was written is refused with the reason; a family of one's own travels in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from slipway.contracts.bundle import INDEX, MODEL, WEIGHTS, bundle_digest, copy_bundle, read_bundle
from slipway.contracts.errors import BundleError, UsageError
from slipway.models.families import load_family, load_model, save_model
from slipway.models.ranking import recommend
from slipway.models.tensors import read_tensors

if TYPE_CHECKING:
    from conftest import Planted

FILES = (MODEL, WEIGHTS, INDEX)

OWN_FAMILY = """
import numpy as np
from slipway.models.interface import Recommender, ignore_epoch

class Alphabet(Recommender):
    family = "alphabet:Alphabet"

    @classmethod
    def fit(cls, data, parameters, *, seed=0, on_epoch=ignore_epoch, checkpoint=None):
        on_epoch(1, {"loss": 0.0})
        return cls(data.catalogue(), parameters=parameters)

    def score(self, user_rows, features):
        return np.tile(-np.arange(len(self.items), dtype=np.float32), (len(user_rows), 1))

    def exact_scores(self, user_rows, features, positions, item_rows):
        return -item_rows.astype(np.float64)

    def to_arrays(self):
        return {}

    @classmethod
    def from_arrays(cls, catalogue, views, parameters, arrays):
        return cls(catalogue, parameters=parameters)
"""


@pytest.fixture
def bundle(planted: Planted, tmp_path: Path) -> Path:
    model = load_family("matrix_factorization").fit(planted.with_features, {"factors": 4, "epochs": 1})
    save_model(model, tmp_path / "bundle", name="films")
    return tmp_path / "bundle"


@pytest.mark.parametrize("file", FILES)
def test_any_changed_byte_is_refused(bundle: Path, file: str) -> None:
    original = (bundle / file).read_bytes()
    for position in np.linspace(0, len(original) - 1, 25).astype(int):
        changed = bytearray(original)
        changed[position] ^= 1
        (bundle / file).write_bytes(changed)
        with pytest.raises(BundleError) as raised:
            load_model(bundle)
        assert str(bundle) in str(raised.value)
        assert raised.value.remedy


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_is_refused(bundle: Path, file: str, keep: int) -> None:
    (bundle / file).write_bytes((bundle / file).read_bytes()[:keep])
    with pytest.raises(BundleError, match=file if file == MODEL else f"{file} is truncated"):
        load_model(bundle, verify=False)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    with pytest.raises(BundleError, match=f"{file} is missing"):
        read_bundle(bundle, verify=False)


def test_another_format_version_is_refused_before_anything_else_is_read(bundle: Path) -> None:
    content = json.loads((bundle / MODEL).read_text())
    (bundle / MODEL).write_text(json.dumps({"format_version": 2, "something": "new"} | {"digest": content["digest"]}))
    with pytest.raises(BundleError, match="format 2 is unknown"):
        read_bundle(bundle)


def test_a_path_out_of_the_bundle_is_refused(bundle: Path) -> None:
    content = json.loads((bundle / MODEL).read_text())
    content["files"][0]["path"] = "../weights.safetensors"
    (bundle / MODEL).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="not a path inside"):
        read_bundle(bundle)


def test_an_unknown_family_and_arrays_of_another_family_are_refused(planted: Planted, tmp_path: Path) -> None:
    model = load_family("popularity").fit(planted.data, {})
    save_model(model, tmp_path / "unknown", family="nowhere:Model")
    with pytest.raises(BundleError, match="family 'nowhere:Model' is not known here"):
        load_model(tmp_path / "unknown")
    save_model(model, tmp_path / "wrong", family="matrix_factorization")
    with pytest.raises(BundleError, match="do not fit the family"):
        load_model(tmp_path / "wrong")


def test_a_copy_carries_metrics_and_lineage_and_only_the_bundles_own_files(bundle: Path, tmp_path: Path) -> None:
    (bundle / "curves.json").write_text("{}")
    manifest = copy_bundle(bundle, tmp_path / "copy", metrics={"ndcg@10": 0.1}, lineage={"features": "abc"})
    assert read_bundle(tmp_path / "copy") == manifest
    assert manifest.metrics == {"ndcg@10": 0.1}
    assert manifest.name == "films"
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == sorted(FILES)
    assert bundle_digest(manifest) != bundle_digest(read_bundle(bundle))


def test_arrays_read_from_the_map_are_those_that_the_safetensors_package_reads(bundle: Path) -> None:
    for file in (WEIGHTS, INDEX):
        expected = load_file(bundle / file)
        found = read_tensors(bundle / file)
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
            assert not found[name].flags.writeable


def test_a_family_of_the_projects_own_is_trained_saved_and_loaded(planted: Planted, tmp_path: Path) -> None:
    for project in ("one", "two"):
        (tmp_path / project).mkdir()
        (tmp_path / project / "alphabet.py").write_text(OWN_FAMILY)
        family = load_family("alphabet:Alphabet", tmp_path / project)
        assert sys.modules["alphabet"].__file__ == str(tmp_path / project / "alphabet.py")
        save_model(family.fit(planted.data, {}), tmp_path / project / "bundle", family="alphabet:Alphabet")
        model = load_model(tmp_path / project / "bundle", base=tmp_path / project)
        answer = recommend(model, ["u0000", "stranger"], k=3, exclude_seen=False)
        assert answer.items[0] == ["i0000", "i0001", "i0002"]
        assert answer.fallback == [None, "unknown_user"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("matrix_factorisation", "Did you mean 'matrix_factorization'"),
        ("no_such_module_here:Model", "cannot be imported"),
        ("json:Nothing", "has no Nothing"),
        ("json:JSONDecoder", "not a subclass"),
    ],
)
def test_a_family_that_cannot_be_found_is_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_family(name)
