"""The model registry: MLflow holds versions, tags and aliases; bundles lie in folders that serving can load.

A version's source is its bundle directory, its address in an object store, or with an MLflow server the copy that was
uploaded there; its tags carry the bundle's place, its SHA-256 and the lineage. A bundle that is not on this machine is
fetched when it is needed. MLflow is imported when it is first needed, as that takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from slipway.contracts.bundle import bundle_digest, read_bundle
from slipway.contracts.errors import EnvironmentProblemError, ServiceError, UsageError
from slipway.contracts.files import exclusive_lock
from slipway.models.bundle_upload import upload_bundle
from slipway.models.mlflow_client import check_reachable, is_outage, quiet_mlflow

SHA256_TAG = "slipway.bundle_sha256"
BUNDLE_TAG = "slipway.bundle_dir"
URI_TAG = "slipway.bundle_uri"
FEATURES_TAG = "slipway.features"
CHAMPION = "champion"
CHALLENGER = "challenger"
STATE_FOLDER = ".slipway"

_SQLITE = "sqlite:///"
BACKOFF_SECONDS = (0.5, 2.0, 5.0)
_LOCK_PATIENCE_SECONDS = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model. `created_at` is in seconds since 1970.

    `bundle_dir` is where its bundle is on this machine, or would be once it is fetched; `bundle_uri` is its address in
    an object store, if it has one.
    """

    name: str
    version: str
    bundle_dir: Path
    sha256: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    bundle_uri: str | None = None

    @property
    def uri(self) -> str:
        """Where others find the bundle: `s3://...`, or the folder as `file://...`."""
        return self.bundle_uri or self.bundle_dir.absolute().as_uri()


class Registry:
    """Versions of models in MLflow.

    Args:
        tracking_uri: MLflow's tracking and registry address; `sqlite:///PATH` or `http(s)://...`.
        artifact_root: Folder of MLflow's own artifacts; only used when the database is made.
        bundles: Folder for bundles that are fetched; without it none is.
        backoff: Pauses in seconds between attempts while MLflow does not answer; by default BACKOFF_SECONDS.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: Path | None = None,
        *,
        bundles: Path | None = None,
        backoff: tuple[float, ...] | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self.bundles = bundles
        self._backoff = BACKOFF_SECONDS if backoff is None else backoff
        self._client: Any = None

    def register(
        self,
        bundle_dir: Path,
        name: str,
        tags: Mapping[str, str] | None = None,
        alias: str | None = CHALLENGER,
        *,
        description: str | None = None,
        uri: str | None = None,
    ) -> ModelVersion:
        """Makes a version of a bundle, or finds the one that the same bundle already has.

        Args:
            bundle_dir: The bundle; it must stay where it is, unless it has a `uri`.
            name: The registered model.
            tags: Lineage.
            alias: Set on the version afterwards; None sets none.
            description: Shown by MLflow's page.
            uri: Where the same bundle is in an object store; it is then the version's source.

        Raises:
            BundleError: The bundle is not sound.
            ServiceError: MLflow does not answer, after several attempts.
        """
        directory = bundle_dir.resolve()
        sha256 = bundle_digest(read_bundle(directory))
        place = {BUNDLE_TAG: str(directory)} if uri is None else {URI_TAG: uri}
        all_tags = {**(tags or {}), SHA256_TAG: sha256, **place}
        with self.alone():
            self._ask(lambda client: _ensure_model(client, name), writes=True)
            known = [version for version in self.list(name) if version.sha256 == sha256]
            if known:
                number = known[-1].version
                if any(known[-1].tags.get(key) != value for key, value in place.items()):
                    # The project was moved or copied: tags that hold places must follow.
                    for key, value in all_tags.items():
                        self._ask(partial(_set_tag, name, number, key, value))
            else:
                source, run_id = (uri, None) if uri is not None else self._source(name, directory, sha256)
                number = str(
                    self._ask(
                        lambda client: client.create_model_version(
                            name,
                            source=source,
                            run_id=run_id,
                            tags=all_tags,
                            description=description,
                            await_creation_for=None,
                        )
                    ).version
                )
            if alias is not None:
                self._ask(lambda client: client.set_registered_model_alias(name, alias, number))
        return self.get(name, number)

    def get(self, name: str, version_or_alias: str) -> ModelVersion:
        """Returns a version by number ("3") or alias ("champion").

        Raises:
            UsageError: There is no such model, version or alias.
            ServiceError: MLflow does not answer.
        """
        versions = self.list(name)
        for version in versions:
            if version_or_alias == version.version or version_or_alias in version.aliases:
                return version
        if not versions:
            names = ", ".join(self.names()) or "none"
            raise UsageError(
                f"no model {name!r} is registered here",
                where=self.tracking_uri,
                remedy=f"Registered: {names}. `slipway run` registers one.",
            )
        known = [version.version for version in versions] + [alias for version in versions for alias in version.aliases]
        raise UsageError(
            f"{name} has no version or alias {version_or_alias!r}",
            where=self.tracking_uri,
            remedy=f"It has: {', '.join(known)}.",
        )

    def find(self, name: str, version_or_alias: str) -> ModelVersion | None:
        """Returns as `get` does, or None where there is no such version."""
        matching = (v for v in self.list(name) if version_or_alias == v.version or version_or_alias in v.aliases)
        return next(matching, None)

    def list(self, name: str) -> list[ModelVersion]:
        """Returns all versions of a model, oldest first; none if the model is unknown."""
        if not self._exists():
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in self._ask(lambda client: _aliases(client, name)).items():
            aliases.setdefault(str(number), []).append(alias)
        escaped = name.replace("'", "''")
        found = self._ask(lambda client: list(client.search_model_versions(f"name='{escaped}'", max_results=10_000)))
        versions = [
            ModelVersion(
                name=name,
                version=str(entry.version),
                bundle_dir=self._folder(name, entry.tags, entry.source),
                sha256=entry.tags.get(SHA256_TAG, ""),
                aliases=tuple(sorted(aliases.get(str(entry.version), ()))),
                tags=dict(entry.tags),
                created_at=entry.creation_timestamp / 1000,
                bundle_uri=entry.tags.get(URI_TAG) or None,
            )
            for entry in found
        ]
        return sorted(versions, key=lambda version: int(version.version))

    def with_bundle(self, version: ModelVersion) -> ModelVersion:
        """Returns a version whose bundle is on this machine: one that is elsewhere only is fetched and checked first.

        Raises:
            BundleError: What was fetched is not the bundle that was registered.
            ServiceError: The object store or MLflow does not answer.
            EnvironmentProblemError: It cannot be written here.
        """
        if version.bundle_dir.is_dir() or self.bundles is None or not version.sha256:
            return version
        from slipway.models.bundle_store import fetch_bundle, fetch_from_mlflow

        target = self._fetched(version.name, version.sha256)
        if version.bundle_uri is not None:
            fetch_bundle(version.bundle_uri, version.sha256, target)
        elif self._database is None:
            self._ask(lambda client: fetch_from_mlflow(client, version.name, version.version, version.sha256, target))
        else:
            return version
        features = target / "features"
        tags = {**version.tags, FEATURES_TAG: str(features) if features.is_dir() else ""}
        return replace(version, bundle_dir=target, tags=tags)

    def names(self) -> Sequence[str]:
        """Returns the names of all registered models."""
        if not self._exists():
            return []
        return sorted(model.name for model in self._ask(lambda client: client.search_registered_models()))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Points an alias at a version, at no other afterwards.

        Raises:
            UsageError: There is no such version.
            ServiceError: MLflow does not answer.
        """
        self.get(name, version)
        with self.alone():
            self._ask(lambda client: client.set_registered_model_alias(name, alias, version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Removes an alias; one that is not set is no error."""
        with self.alone():
            self._ask(lambda client: client.delete_registered_model_alias(name, alias))

    def _fetched(self, name: str, sha256: str) -> Path:
        assert self.bundles is not None
        return self.bundles / name / sha256[:12]

    def _folder(self, name: str, tags: Mapping[str, str], source: str) -> Path:
        """Returns where a version's bundle is, or would be once it is fetched."""
        folder = Path(tags.get(BUNDLE_TAG) or source)
        sha256 = tags.get(SHA256_TAG, "")
        if folder.is_dir() or self.bundles is None or not sha256:
            return folder
        fetched = self._fetched(name, sha256)
        return fetched if fetched.is_dir() or URI_TAG in tags else folder

    def _source(self, name: str, directory: Path, sha256: str) -> tuple[str, str | None]:
        """Returns (source, run id) of a new version: the folder itself, or what was uploaded to a server."""
        if self._database is not None:
            return str(directory), None
        return self._ask(lambda client: upload_bundle(client, name, directory, sha256))

    @property
    def _database(self) -> Path | None:
        return Path(self.tracking_uri.removeprefix(_SQLITE)) if self.tracking_uri.startswith(_SQLITE) else None

    def _exists(self) -> bool:
        return self._database is None or self._database.is_file()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps two processes from making the database, or a version of one bundle, at the same time."""
        if self._database is None:
            yield
            return
        from slipway.contracts.errors import LockHeldError

        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        lock = self._database.with_name(f"{self._database.name}.lock")
        while True:
            try:
                with exclusive_lock(lock, holder="writing the model registry", remedy="Wait for it to end."):
                    yield
                return
            except LockHeldError as error:
                if time.monotonic() > deadline or error.where != str(lock):
                    raise
                time.sleep(0.05)

    def _ask(self, question: Callable[[Any], Answer], *, writes: bool = False) -> Answer:
        """Puts a question to MLflow; repeats it while MLflow does not answer."""
        for pause in (*self._backoff, None):
            try:
                with quiet_mlflow():
                    if self._client is None:
                        self._client = self._connect(writes=writes)
                    return question(self._client)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._client = None
                if pause is None:
                    raise ServiceError(
                        f"MLflow does not answer ({_first_line(error)})",
                        where=self.tracking_uri,
                        remedy="Nothing was lost: run the command again when MLflow is back.",
                    ) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _connect(self, *, writes: bool) -> Any:
        database = self._database
        if database is not None and writes:
            try:
                database.parent.mkdir(parents=True, exist_ok=True)
                with sqlite3.connect(database, timeout=30) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            except (OSError, sqlite3.Error) as error:
                raise EnvironmentProblemError(
                    f"the registry's database cannot be written ({error})",
                    where=str(database),
                    remedy="Free space or change the rights of the folder.",
                ) from error
        if database is None:
            check_reachable(self.tracking_uri)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)


def registry_for(project_dir: Path, tracking_uri: str | None = None) -> Registry:
    """Returns the registry of a project: its own SQLite, or the MLflow server that its file names."""
    state = project_dir.resolve() / STATE_FOLDER
    uri = os.path.expandvars(tracking_uri) if tracking_uri else f"{_SQLITE}{state / 'mlflow.db'}"
    return Registry(uri, state / "mlartifacts", bundles=state / "bundles")


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _set_tag(name: str, number: str, key: str, value: str, client: Any) -> None:
    client.set_model_version_tag(name, number, key, value)


def _aliases(client: Any, name: str) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return {}
        raise


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
