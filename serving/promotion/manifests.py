"""The files of a model in an environment: `manifests/models/<model>/<environment>/{kustomization,rollout}.yaml`.

The first promotion writes them whole; every later one changes what names the version, and nothing else: replicas,
policy, labels and comments are the user's to edit in Git.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from slipway.contracts.errors import PromotionError, UsageError
from slipway.contracts.project.promotion import EnvironmentSpec
from slipway.contracts.rollout.resource import API_VERSION, GROUP, KIND, LONGEST_NAME, NAME_PATTERN, RolloutResource
from slipway.serving.promotion.audit import Version
from slipway.serving.promotion.yaml_edit import UneditableError, add_item, set_values

ROLLOUT = "rollout.yaml"
KUSTOMIZATION = "kustomization.yaml"
ENVIRONMENT = f"{GROUP}/environment"
"""Annotation of a Rollout that says which environment of the project it is, so that its folder in Git can be found."""

_KUSTOMIZATION_HEAD = "# `slipway promote` wrote this once and keeps rollout.yaml in the list. The rest is yours.\n"
_ROLLOUT_HEAD = """\
# `slipway promote` wrote this once and changes spec.model only: the version that is wanted here. The rest is yours,
# comments too. Fields: kubectl explain rollout.spec
"""


@dataclass(frozen=True)
class Defaults:
    """What the first manifest of a model in an environment is made of. `policy` is the project's `rollout:`."""

    environment: EnvironmentSpec
    policy: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """Where the Rollout lives; an environment has its own name for it, or lends it its name."""
        return self.environment.namespace or self.environment.name


def wanted_version(rollout: str, where: str) -> Version:
    """Returns the version that a rollout.yaml names.

    Raises:
        PromotionError: It is no Rollout, or names no version.
    """
    return _resource(rollout, where)[1]


def promoted_files(
    present: Mapping[str, str | None], model: str, wanted: Version, defaults: Defaults, where: str
) -> dict[str, str]:
    """Returns the new content of the files that change.

    Args:
        present: Content by name, None where there is no such file.
        model: The registered model.
        wanted: The version to name.
        defaults: For files that are not there yet.
        where: The folder, for messages.

    Raises:
        PromotionError: A file of the user cannot be changed in that one place, or makes no valid Rollout.
        UsageError: The project does not say what the first manifest needs.
    """
    rollout, kustomization = present[ROLLOUT], present[KUSTOMIZATION]
    try:
        if rollout is None:
            new_rollout = _first_rollout(model, wanted, defaults)
        else:
            values = {"name": model, "version": wanted.version, "uri": wanted.uri, "digest": wanted.digest}
            new_rollout = set_values(rollout, {("spec", "model", key): value for key, value in values.items()})
        if kustomization is None:
            new_kustomization = _first_kustomization(defaults)
        else:
            new_kustomization = add_item(kustomization, ("resources",), ROLLOUT)
    except UneditableError as error:
        raise PromotionError(
            f"a manifest cannot be changed in one place: {error}",
            where=where,
            remedy="Write spec.model of rollout.yaml as plain fields, and resources of kustomization.yaml as a list.",
        ) from error
    name, version = _resource(new_rollout, f"{where}/{ROLLOUT}")
    assert (name, version) == (model, wanted)
    new = {ROLLOUT: new_rollout, KUSTOMIZATION: new_kustomization}
    return {file: content for file, content in new.items() if content != present[file]}


def check_rollout(text: str, where: str) -> None:
    """Checks a rollout.yaml against the contract of the custom resource.

    Raises:
        PromotionError: It does not fit.
    """
    _resource(text, where)


def _first_rollout(model: str, wanted: Version, defaults: Defaults) -> str:
    environment = defaults.environment
    if not re.fullmatch(NAME_PATTERN, model) or len(model) > LONGEST_NAME:
        raise UsageError(
            f"{model!r} cannot be the name of a Rollout",
            remedy=f"Register the model under a name of at most {LONGEST_NAME} lower-case letters, digits and hyphens.",
        )
    if environment.traffic is None:
        raise UsageError(
            f"the first promotion to {environment.name} needs to know where requests come in",
            where="promotion.environments",
            remedy=f"Write in slipway.yaml: {{name: {environment.name}, traffic: {{gateway: {{name: "
            f"kserve-ingress-gateway, namespace: kserve}}, hostnames: [{model}.example.com]}}}}",
        )
    spec: dict[str, Any] = {"model": {"name": model, **wanted.model_dump(include={"version", "uri", "digest"})}}
    predictor = environment.predictor.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if predictor:
        spec["predictor"] = predictor
    spec["traffic"] = environment.traffic.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if defaults.policy:
        spec["policy"] = dict(defaults.policy)
    document = {
        "apiVersion": f"{GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {
            "name": model,
            "labels": {"app.kubernetes.io/part-of": model},
            "annotations": {ENVIRONMENT: environment.name},
        },
        "spec": spec,
    }
    return _ROLLOUT_HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _first_kustomization(defaults: Defaults) -> str:
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": defaults.namespace,
        "resources": [ROLLOUT],
    }
    return _KUSTOMIZATION_HEAD + yaml.safe_dump(document, sort_keys=False)


def _resource(text: str, where: str) -> tuple[str, Version]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PromotionError(f"this is not YAML: {str(error).splitlines()[0]}", where=where) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise PromotionError(f"this is no {KIND}", where=where, remedy="Remove the file, or restore it from Git.")
    if document.get("apiVersion") != f"{GROUP}/{API_VERSION}":
        raise PromotionError(
            f"it is of {document.get('apiVersion')!r}; this Slipway writes {GROUP}/{API_VERSION}",
            where=where,
            remedy="Use the Slipway that wrote it, or change its apiVersion.",
        )
    try:
        spec = RolloutResource.model_validate(document.get("spec"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(("spec", *(str(part) for part in first["loc"])))
        raise PromotionError(
            f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}", where=where, remedy="Mend the field in Git first."
        ) from error
    model = spec.model
    return model.name, Version(version=model.version, digest=model.digest, uri=model.uri)
