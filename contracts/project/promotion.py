"""The part `promotion:` of a project file: environments in their order, and the repository that says what they run."""

from __future__ import annotations

import string
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slipway.contracts.evaluation import GateSpec
from slipway.contracts.rollout.resource import PredictorTemplate, Traffic

BUNDLE_FIELDS = ("name", "version", "sha256", "sha12")
"""What stands in braces in `bundles`."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

EnvironmentName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")]
RefName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w./-]{0,200}$")]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnvironmentSpec(_Spec):
    """One place that a model runs in.

    A version must have been promoted to the environment before this one in the list. `gates` hold here on top of the
    project's; `approvals` is how many people other than the one who asked must approve. `namespace`, `predictor` and
    `traffic` go into the first manifest; afterwards they are Git's, and yours to edit there.
    """

    name: EnvironmentName
    namespace: str | None = Field(default=None, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    gates: tuple[GateSpec, ...] = ()
    approvals: int = Field(default=0, ge=0, le=10)
    branch: RefName | None = None
    bundles: str | None = None
    predictor: PredictorTemplate = Field(default_factory=lambda: PredictorTemplate.model_validate({}))
    traffic: Traffic | None = None

    @field_validator("bundles")
    @classmethod
    def _bundles(cls, bundles: str | None) -> str | None:
        return check_bundles(bundles)


class PromotionSpec(_Spec):
    """Where desired state lives, and who is told.

    `repository` is the address of a Git repository; left out, it is the checkout that holds the project file, and its
    `remote`. `branch` is where pull requests go, by default the repository's main one. `bundles` is the address of a
    bundle as the cluster reads it, with {name}, {version}, {sha256} or {sha12} in it. `host` and `api` are told from
    the repository's address where they can be. A token comes from the environment, never from this file.
    """

    repository: str | None = Field(default=None, min_length=1, pattern=r"^[^-\s]\S*$")
    remote: RefName = "origin"
    branch: RefName | None = None
    directory: str = "manifests/models"
    host: Literal["github", "gitlab"] | None = None
    api: str | None = Field(default=None, pattern=r"^https?://\S+$")
    bundles: str | None = None
    environments: tuple[EnvironmentSpec, ...] = ()

    @field_validator("repository")
    @classmethod
    def _no_credentials(cls, repository: str | None) -> str | None:
        address = urlsplit(repository or "")
        if address.scheme in ("http", "https") and (address.password or address.username):
            raise ValueError("the address holds credentials: leave them out, and set SLIPWAY_GIT_TOKEN")
        return repository

    @field_validator("directory")
    @classmethod
    def _inside(cls, directory: str) -> str:
        path = PurePosixPath(directory)
        if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
            raise ValueError(f"{directory!r} is no folder inside the repository")
        return str(path)

    @field_validator("api")
    @classmethod
    def _encrypted(cls, api: str | None) -> str | None:
        address = urlsplit(api or "")
        if address.scheme == "http" and address.hostname not in _LOOPBACK:
            raise ValueError("a token would travel in the clear: write https")
        return api

    @field_validator("bundles")
    @classmethod
    def _bundles(cls, bundles: str | None) -> str | None:
        return check_bundles(bundles)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [environment.name for environment in self.environments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two environments have the name {twice[0]!r}")
        return self

    def environment(self, name: str) -> EnvironmentSpec | None:
        """Returns an environment by name, or None."""
        return next((environment for environment in self.environments if environment.name == name), None)

    def before(self, name: str) -> EnvironmentSpec | None:
        """Returns the environment that a version must have passed, or None for the first."""
        names = [environment.name for environment in self.environments]
        index = names.index(name)
        return self.environments[index - 1] if index else None


def check_bundles(bundles: str | None) -> str | None:
    """Returns the address of bundles as it is.

    Raises:
        ValueError: It has a field that nothing fills, or is the same for every bundle.
    """
    if bundles is None:
        return None
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(bundles) if field is not None}
    except ValueError as error:
        raise ValueError(f"{bundles!r} has unpaired braces") from error
    unknown = sorted(fields - set(BUNDLE_FIELDS))
    if unknown:
        raise ValueError(f"{{{unknown[0]}}} is no field; known are {', '.join(BUNDLE_FIELDS)}")
    if not fields & {"version", "sha256", "sha12"}:
        raise ValueError("every version would have one address: put {sha12} or {version} into it")
    return bundles
