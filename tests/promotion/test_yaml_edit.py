"""A value of a YAML text is changed, and every other byte of the user stays."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.serving.promotion.yaml_edit import UneditableError, add_item, set_values

MODEL = ("spec", "model", "version")

WRITTEN = """\
# our rollout, ask the platform team before you touch it
apiVersion: slipway.dev/v1alpha1
kind: Rollout
metadata: {name: films, labels: {team: search}}   # flow style
spec:
  model:      # promotion sets this
    name: films
    version: "2"   # keep the quotes
    digest: aaaa
    # a note at the end of the mapping

  policy:
    steps:
      - {weight: 5}
"""


def changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


def test_one_value_changes_and_comments_quotes_and_order_stay() -> None:
    after = set_values(WRITTEN, {MODEL: "3", ("spec", "model", "digest"): "aaaa"})
    assert changed_lines(WRITTEN, after) == [
        '-     version: "2"   # keep the quotes',
        '+     version: "3"   # keep the quotes',
    ]


def test_a_missing_key_is_added_behind_the_last_value_of_its_mapping() -> None:
    after = set_values(WRITTEN, {("spec", "model", "uri"): "s3://b/films"})
    assert changed_lines(WRITTEN, after) == ["+     uri: 's3://b/films'"]
    assert after.splitlines()[8:10] == ["    digest: aaaa", "    uri: 's3://b/films'"]


def test_missing_parents_are_added_too() -> None:
    after = set_values(WRITTEN, {("spec", "traffic", "gateway", "name"): "public"})
    assert yaml.safe_load(after)["spec"]["traffic"] == {"gateway": {"name": "public"}}
    assert len(changed_lines(WRITTEN, after)) == 3


def test_flow_style_stays_flow_style() -> None:
    after = set_values(WRITTEN, {("metadata", "labels", "stage"): "production", ("metadata", "name"): "movies"})
    assert "metadata: {name: movies, labels: {team: search, stage: production}}   # flow style" in after


def test_a_version_that_reads_as_a_number_is_quoted() -> None:
    after = set_values("spec:\n  model:\n    version: two\n", {MODEL: "3"})
    assert yaml.safe_load(after)["spec"]["model"]["version"] == "3"


@pytest.mark.parametrize(
    "text",
    [
        "spec:\r\n  model:\r\n    version: '2'\r\n",
        "spec:\n  model:\n    version: '2'",
        "spec: {model: {version: '2'}}",
        "spec:\n  model:\n    version: |\n      2\n    name: films\n",
        "spec:\n  model:\n    version:\n    name: films\n",
        "spec:\n  model: {}\n",
        "spec:\n  model:\n",
        "spec:\n",
        "kind: Rollout\n",
        "---\nspec:\n  model:\n    version: &v '2'\n    other: *v\n",
    ],
)
def test_odd_layouts_end_with_the_right_value_or_are_refused(text: str) -> None:
    before = yaml.safe_load(text)
    try:
        after = set_values(text, {MODEL: "3"})
    except UneditableError:
        assert "&v" in text
        return
    loaded = yaml.safe_load(after)
    assert loaded["spec"]["model"]["version"] == "3"
    assert {key: value for key, value in loaded.items() if key != "spec"} == {
        key: value for key, value in before.items() if key != "spec"
    }
    assert ("\r\n" in after) == ("\r\n" in text)


@pytest.mark.parametrize(
    "text",
    [
        "- a\n- b\n",
        "a: [\n",
        "a: 1\n---\nb: 2\n",
        "base: &base {version: '2'}\nspec:\n  model: *base\n",
        "spec: text\n",
    ],
)
def test_what_cannot_be_changed_by_itself_is_refused(text: str) -> None:
    with pytest.raises(UneditableError):
        set_values(text, {MODEL: "3"})


def test_an_item_is_added_once_to_a_list_in_either_style() -> None:
    block = "resources:\n- config.yaml   # ours\n# more to come\n"
    assert add_item(block, ("resources",), "rollout.yaml") == (
        "resources:\n- config.yaml   # ours\n- rollout.yaml\n# more to come\n"
    )
    assert add_item("resources: [a]\n", ("resources",), "rollout.yaml") == "resources: [a, rollout.yaml]\n"
    assert add_item("kind: Kustomization\n", ("resources",), "b") == "kind: Kustomization\nresources: [b]\n"
    assert yaml.safe_load(add_item("resources:\n", ("resources",), "b")) == {"resources": ["b"]}
    assert add_item("resources: [b]\n", ("resources",), "b") == "resources: [b]\n"


KEYS = st.sampled_from(["spec", "model", "version", "name", "x", "on", "1"])
SCALARS = st.one_of(st.text("ab'\"#:- \n{}[]&*0123", max_size=8), st.integers(), st.booleans(), st.none())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4), st.text("abc 0123#:'\"-", max_size=10), st.booleans())
def test_any_document_changes_in_one_place_or_is_refused(document: dict[str, object], value: str, flow: bool) -> None:
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=flow)
    model = document.get("spec", {})
    for key in ("model", "version"):
        reachable = model is None or isinstance(model, dict)
        model = (model or {}).get(key) if reachable else "unreachable"
        if not reachable:
            break
    try:
        after = yaml.safe_load(set_values(text, {MODEL: value}))
    except UneditableError:
        assert not reachable or isinstance(model, dict | list)
        return
    assert after["spec"]["model"]["version"] == value
    after["spec"]["model"].pop("version")
    kept = {key: dict(entry) if isinstance(entry, dict) else entry for key, entry in document.items()}
    assert {k: v for k, v in after.items() if k != "spec"} == {k: v for k, v in kept.items() if k != "spec"}
