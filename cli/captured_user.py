"""What the captured data of a project holds of one person, and taking it out, also while the plane captures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from slipway.contracts.errors import ServiceError
from slipway.contracts.events import RequestSigner, load_or_create_key
from slipway.contracts.project import Project
from slipway.serving.capture.forgetting import Gone, forget_in_parts
from slipway.serving.local.layout import PlaneLayout
from slipway.serving.local.observed import read_observed


@dataclass(frozen=True)
class Held:
    """What one place holds of a person.

    Attributes:
        kind: joined or late, the parts on disk; waiting, what the collector has in memory.
        place: The part, or the collector's address.
        removed: Rows that are theirs alone.
        changed: Rows of several people.
    """

    kind: str
    place: str
    removed: int
    changed: int


def forget_user(project: Project, user: str, *, removes: bool) -> list[Held]:
    """Returns what is held of a user, and takes it out; where nothing was ever captured, nothing.

    Args:
        project: The project; its key hashes the user as events are hashed.
        user: As requests name them.
        removes: Else only look.

    Raises:
        ServiceError: The plane runs, and its collector does not answer: what it has in memory would be written later.
        ArtifactError: A part cannot be read.
        EnvironmentProblemError: The key is not safe, or a part cannot be written.
    """
    layout = PlaneLayout(project.directory)
    if not layout.key_file.exists():
        return []
    hashed = RequestSigner(load_or_create_key(layout.key_file)).hash_user(user)
    found: list[Held] = []
    gone: Gone = {}
    observed = read_observed(project.directory)
    url = observed.endpoints.get("collector")
    if observed.is_fresh() and url is not None:
        answer = _ask(url, {"user": hashed, "model": project.name, "dry_run": not removes})
        gone = {request: None if items is None else frozenset(items) for request, items in answer["gone"].items()}
        if answer["requests"] or answer["lines"]:
            found.append(Held("waiting", url, answer["requests"] + answer["lines"], 0))
    for part in forget_in_parts(layout.feedback, hashed, removes=removes, gone=gone):
        place = part.path.relative_to(project.state)
        found.append(Held(part.path.parents[1].name, str(place), part.removed, part.changed))
    return found


def _ask(url: str, content: dict[str, Any]) -> dict[str, Any]:
    try:
        with httpx.Client(timeout=60.0, trust_env=False) as client:
            response = client.post(f"{url.rstrip('/')}/users/forget", json=content)
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ServiceError(
            f"the collector does not answer ({type(error).__name__})",
            where=url,
            remedy="It may hold the person's data in memory. See: slipway status; or stop it first: slipway down",
        ) from error
    if response.status_code != 200:
        raise ServiceError(f"the collector refused: {answer.get('error', answer)}", where=url)
    return answer


def shortened(place: str) -> str:
    """Returns a place for a table: the end of a path, which tells parts apart."""
    return place if "://" in place else str(Path(*Path(place).parts[-3:]))
