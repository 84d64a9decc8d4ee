"""`python -m slipway.serving.rollout.operator.crd [FILE]`: the CustomResourceDefinition, made from the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from slipway.contracts.files import write_atomically
from slipway.contracts.rollout.resource import API_VERSION, GROUP, KIND, LONGEST_NAME, PLURAL, RolloutResource
from slipway.serving.rollout.operator.schema import structural

HEADER = "# Made by `python -m slipway.serving.rollout.operator.crd`; changes go into contracts/rollout.\n"

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.step", 0),
    ("Weight", "integer", ".status.weight", 0),
    ("Verdict", "string", ".status.verdict", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Candidate", "string", ".status.candidate", 1),
    ("Stable", "string", ".status.stable", 1),
    ("Reason", "string", ".status.reason", 1),
)

_POLICY_RULES = (
    (
        "!has(self.steps) || self.steps.map(step, step.weight).isSorted()",
        "the weights of the steps must rise",
    ),
    (
        (
            "!has(self.steps) || self.steps.all(step, step.weight == 0 || "
            "self.steps.exists_one(other, other.weight == step.weight))"
        ),
        "the weights of the steps must rise: no weight but 0 stands twice",
    ),
    (
        (
            "!has(self.steps) || (has(self.strategy) && self.strategy == 'shadow') || "
            "(!has(self.strategy) && has(self.preset) && self.preset == 'shadow') || "
            "self.steps[size(self.steps) - 1].weight == 100"
        ),
        "the last step must have weight 100, except for a shadow",
    ),
    (
        (
            "!has(self.steps) || !has(self.strategy) || self.strategy != 'shadow' || "
            "self.steps.all(step, step.weight == 0)"
        ),
        "a shadow gets copies of requests only: its steps have weight 0",
    ),
    (
        "!has(self.guardrails) || self.guardrails.exists(one, !has(one.dry_run) || !one.dry_run)",
        "a rollout needs at least one guardrail that decides: one without dry_run",
    ),
)
_STEP_RULES = (
    ("!has(self.mirror) || self.mirror == 0 || self.weight == 0", "copies are for weight 0"),
    (
        (
            "!has(self.requires) || self.requires == 'noHarm' || (self.weight > 0 && self.weight < 100) || "
            "(has(self.mirror) && self.mirror > 0)"
        ),
        "at weights 0 and 100 only one version has traffic; ask for proof on a step between",
    ),
)
_GUARDRAIL_RULES = (
    (
        "(self.kind == 'latency') == (has(self.objective) || has(self.objectives))",
        "`objective` (or `objectives`) belongs to kind latency, and that kind needs it",
    ),
    ("!(has(self.objective) && has(self.objectives))", "give `objective` or `objectives`, not both"),
    ("(self.kind == 'counters') == has(self.counters)", "`counters` belongs to kind counters, and that kind needs it"),
    (
        (
            "has(self.value) == has(self.maximum) && (self.kind != 'mean' || has(self.value)) && "
            "(!has(self.value) || self.kind in ['mean', 'ndcg', 'auc'])"
        ),
        "`value` and `maximum` belong together, and to kinds mean (which needs them), ndcg and auc",
    ),
    (
        "(self.kind in ['agreement', 'rank_correlation']) == has(self.at_least)",
        "`at_least` belongs to kinds agreement and rank_correlation, and these need it",
    ),
    (
        "(self.kind == 'score_difference') == has(self.at_most)",
        "`at_most` belongs to kind score_difference, and that kind needs it",
    ),
    (
        "(self.kind in ['agreement', 'rank_correlation', 'score_difference']) != has(self.margin)",
        "every guardrail needs a margin but those with a limit, which have none",
    ),
    ("self.name != 'assignment'", "`assignment` is the name of the built-in check of the traffic split"),
)
_MARGIN_RULES = (("has(self.odds_ratio) || has(self.absolute)", "a margin needs odds_ratio, absolute, or both"),)
_PREDICTOR_RULES = (
    (
        "!has(self.maxReplicas) || self.maxReplicas >= (has(self.minReplicas) ? self.minReplicas : 1)",
        "maxReplicas is below minReplicas",
    ),
)
_SPEC_RULES = (("self.model.name == oldSelf.model.name", "a Rollout is about one model; make another for another"),)
_ROOT_RULES = (
    (
        f"self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= {LONGEST_NAME}",
        f"the name begins with a letter, has letters, digits and dashes, and at most {LONGEST_NAME} of them",
    ),
)


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def definition() -> dict[str, Any]:
    """Returns the CustomResourceDefinition of `Rollout`."""
    spec = structural(RolloutResource.model_json_schema(by_alias=True))
    _add_rules(spec)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "slipway"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "rollout",
                "shortNames": ["ro"],
                "categories": ["slipway"],
            },
            "versions": [
                {
                    "name": API_VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "priority": priority}
                        for name, kind, path, priority in _COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "description": "A model version on its way to all traffic, or back.",
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": _status(),
                            },
                            "x-kubernetes-validations": _rules(_ROOT_RULES),
                        }
                    },
                }
            ],
        },
    }


def manifest() -> str:
    """Returns the definition as YAML; the same text for the same contract."""
    return HEADER + yaml.dump(definition(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def _add_rules(spec: dict[str, Any]) -> None:
    spec["x-kubernetes-validations"] = _rules(_SPEC_RULES)
    properties = spec["properties"]
    properties["predictor"]["x-kubernetes-validations"] = _rules(_PREDICTOR_RULES)
    policy = properties["policy"]
    policy["x-kubernetes-validations"] = _rules(_POLICY_RULES)
    steps, guardrails = policy["properties"]["steps"], policy["properties"]["guardrails"]
    steps["items"]["x-kubernetes-validations"] = _rules(_STEP_RULES)
    steps["items"]["properties"]["margins"]["additionalProperties"]["x-kubernetes-validations"] = _rules(_MARGIN_RULES)
    guardrails["items"]["x-kubernetes-validations"] = _rules(_GUARDRAIL_RULES)
    guardrails["items"]["properties"]["margin"]["x-kubernetes-validations"] = _rules(_MARGIN_RULES)
    # Names are unique, and two appliers may own one guardrail each.
    guardrails |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    for many in (steps, guardrails):
        many["maxItems"] = 32


def _rules(rules: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"rule": rule, "message": message} for rule, message in rules]


def _status() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer"}
    weights = {"type": "object", "additionalProperties": {"type": "integer"}}
    condition = {
        "type": "object",
        "required": ["type", "status", "reason"],
        "properties": {
            "type": text,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text,
            "message": text,
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    }
    open_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "phase": text,
            "step": {"type": "string", "description": "Step of the policy, such as 2/4."},
            "weight": {"type": "integer", "description": "Percent of traffic that was decided for the candidate."},
            "verdict": {"type": "string", "description": "The worst of the guardrails that decide."},
            "reason": {"type": "string", "description": "Why it is where it is, in one sentence."},
            "alarm": text,
            "candidate": text,
            "stable": text,
            "champion": {"type": "string", "description": "Version of the alias, where no registry keeps it."},
            "run": {"type": "integer", "description": "How many versions were tried so far."},
            "weights": weights,
            "actualWeights": weights,
            "verdicts": {"type": "array", "items": open_object},
            "conditions": {
                "type": "array",
                "items": condition,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
            "history": {"type": "array", "items": open_object, "description": "Newest last; the oldest are dropped."},
            "versions": {
                "type": "array",
                "items": open_object,
                "description": "The versions that it runs, or ran last.",
            },
            "record": {
                "type": "string",
                "description": "What the operator remembers between two looks: JSON, gzip, base64.",
            },
            "retries": number,
        },
    }


def main() -> int:
    """Writes the definition to the file named, or to the standard output; returns the exit code."""
    if len(sys.argv) > 1:
        write_atomically(Path(sys.argv[1]), manifest())
    else:
        sys.stdout.write(manifest())
    return 0


if __name__ == "__main__":
    sys.exit(main())
