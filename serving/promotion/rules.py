"""What a promotion must fulfil: the order of the environments, and the gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slipway.contracts.errors import GateError, PromotionError, RefusedError
from slipway.contracts.project.promotion import EnvironmentSpec, PromotionSpec
from slipway.serving.promotion.audit import Audit
from slipway.serving.promotion.candidate import Candidate


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold, in words."""

    rule: Literal["order", "gates"]
    text: str


def violations(
    candidate: Candidate,
    environment: EnvironmentSpec,
    spec: PromotionSpec,
    audit_of: Callable[[EnvironmentSpec], Audit],
) -> list[Violation]:
    """Returns every rule that a promotion breaks.

    Args:
        candidate: With its gates, checked.
        environment: Where it is to go.
        spec: With all environments in order.
        audit_of: Reads the audit of the model in an environment.
    """
    found = []
    before = spec.before(environment.name)
    if before is not None and audit_of(before).promoted(candidate.version.digest) is None:
        text = f"{before.name} has not promoted {candidate.model} version {candidate.version.version}"
        found.append(Violation("order", text))
    found += [Violation("gates", f"{gate.gate}: {gate.why}") for gate in candidate.gates if not gate.passed]
    return found


def refusal(
    found: list[Violation], candidate: Candidate, environment: EnvironmentSpec, before: str | None
) -> RefusedError:
    """Returns the error that names every broken rule."""
    lines = "\n".join(f"  {violation.rule}: {violation.text}" for violation in found)
    version = f"{candidate.model} version {candidate.version.version}"
    remedies = []
    if any(violation.rule == "order" for violation in found):
        remedies.append(f"Promote it there first: slipway promote {candidate.model} --to {before}")
    if any(violation.rule == "gates" for violation in found):
        remedies.append("Train a better model, or change the gates.")
    remedies.append("To promote it all the same, for the record: --force --reason '...'")
    kind = PromotionError if all(violation.rule == "order" for violation in found) else GateError
    return kind(f"{version} was not promoted to {environment.name}:\n{lines}\n", remedy="\n".join(remedies))
