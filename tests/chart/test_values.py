"""Values of the chart: every one is described, known to the schema, and refused by name when it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from rendered import CHART, chart, helm, named, tool

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
FULL = f"--values={CHART / 'ci' / 'full-values.yaml'}"


def closed_objects(schema: dict[str, Any], path: str = "") -> list[str]:
    """Returns the objects with named properties that would take any other."""
    found = [path] if "properties" in schema and schema.get("additionalProperties") is not False else []
    for name, child in schema.get("properties", {}).items():
        found += closed_objects(child, f"{path}.{name}")
    return found


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(node, dict) and node:
        return [leaf for name, child in node.items() for leaf in leaves(child, (*path, name))]
    return [path]


def test_every_value_is_known_to_the_schema_and_no_unknown_one_is_taken() -> None:
    assert closed_objects(SCHEMA) == []
    for path in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        schema = SCHEMA
        for name in path:
            if "$ref" in schema:
                schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
            if name not in schema.get("properties", {}):
                assert isinstance(schema.get("additionalProperties"), dict), f"{'.'.join(path)} is not in the schema"
                break
            schema = schema["properties"][name]


def test_the_readme_is_made_from_the_values() -> None:
    assert (CHART / "README.md").read_text() == tool("chart_readme").readme()


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("operator.replicaz=2", "replicaz"),
        ("operater.replicas=2", "operater"),
        ("operator.replicas=0", "/operator/replicas"),
        ("operator.prometheusUrl=prometheus:9090", "/operator/prometheusUrl"),
        ("operator.namespaces={Films}", "/operator/namespaces/0"),
        ("operator.leaseDuration=1", "/operator/leaseDuration"),
        ("operator.digest=sha256:abc", "/operator/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("runtime.scope=Global", "/runtime/scope"),
        ("runtime.gpu.count=-1", "/runtime/gpu/count"),
        ("predictor.settings.signingKey=secret", "/predictor/settings/signingKey"),
        ("predictor.settings.redisUrl=redis.features", "/predictor/settings/redisUrl"),
        ("collector.values.Watch=3", "'Watch' not allowed"),
        ("collector.persistence.size=ten", "/collector/persistence/size"),
        ("monitoring.monitors.interval=5", "/monitoring/monitors/interval"),
        ("networkPolicy.operatorEgressPorts={https}", "/networkPolicy/operatorEgressPorts/0"),
        ("feast.project=my-shop", "/feast/project"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, place: str) -> None:
    refused = helm("template", "slipway", str(CHART), "--set", setting, check=False)
    assert refused.returncode != 0
    assert place in refused.stderr


def test_the_operator_has_rights_only_where_it_works() -> None:
    found = chart("--set=operator.namespaces={films,books}")
    roles = {(each["metadata"].get("namespace", "slipway-system")) for each in found if each["kind"] == "Role"}
    assert roles == {"films", "books", "slipway-system"}
    (cluster,) = [each for each in found if each["kind"] == "ClusterRole"]
    assert {verb for rule in cluster["rules"] for verb in rule["verbs"]} == {"get", "list"}
    own = [each for each in found if each["kind"] == "Role" and "namespace" not in each["metadata"]]
    assert [rule["resources"] for each in own for rule in each["rules"]] == [["leases"], ["leases"]]


def test_no_role_has_a_wildcard_or_reads_secrets() -> None:
    for options in ((), ("--set=operator.allNamespaces=true",), (FULL,)):
        for each in chart(*options):
            if each["kind"] in ("Role", "ClusterRole"):
                for rule in each["rules"]:
                    told = {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
                    assert not told & {"*", "secrets"}, named(each)


def test_the_signing_key_is_one_for_all_namespaces_of_a_release() -> None:
    secrets = [each for each in chart("--set=operator.namespaces={films,books}") if each["kind"] == "Secret"]
    keys = {each["stringData"]["signing-key"] for each in secrets}
    assert len(secrets) == 3
    assert len(keys) == 1
    assert len(bytes.fromhex(keys.pop())) == 32


def test_a_digest_stands_over_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    images = {
        container["image"]
        for each in chart("--set=image.tag=1.2.3", f"--set=operator.digest={digest}")
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"ghcr.io/slipway/slipway-operator@{digest}", "ghcr.io/slipway/slipway-collector:1.2.3"}
