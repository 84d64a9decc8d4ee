"""Approvals: a line in the audit file of the proposal, and an approving review at the host where there is a token."""

from __future__ import annotations

from dataclasses import replace

from slipway.contracts.errors import PromotionError, ServiceError, UsageError
from slipway.contracts.project.promotion import EnvironmentSpec
from slipway.serving.promotion import body
from slipway.serving.promotion.audit import AUDIT, Audit, AuditLine, same_person
from slipway.serving.promotion.candidate import Outcome
from slipway.serving.promotion.ground import ATTEMPTS, Ground, Proposal, find_environment
from slipway.serving.promotion.promote import Promoter, too_busy
from slipway.serving.promotion.repository import BranchMovedError


def approve(
    promoter: Promoter, model: str, to: str, version: str | None = None, *, reason: str | None = None
) -> Outcome:
    """Approves an open proposal; approving it twice is no error.

    Args:
        promoter: Of the repository.
        model: The registered model.
        to: The environment.
        version: Which, where several are proposed.
        reason: A remark for the audit file.

    Raises:
        UsageError: No proposal is open, or several are and none was named.
        PromotionError: It is one's own.
        ServiceError: The remote or the host refuses, or does not answer.
    """
    environment = find_environment(promoter.spec, to)
    repository = promoter.repository
    with repository.alone():
        for _ in range(ATTEMPTS):
            ground = promoter.look(model, environment)
            proposal = _one_proposal(ground, model, to, version)
            given = _approval(promoter, proposal, reason)
            text = proposal.audit.adding(given)
            audit = Audit(text, ground.folder)
            if len(audit.approvals(proposal.branch)) == len(proposal.audit.approvals(proposal.branch)):
                outcome = promoter.outcome("exists", "approve", environment, ground, proposal.line, proposal)
                return replace(outcome, notes=(*outcome.notes, "you have approved it before"))
            commit = repository.commit(proposal.commit, {f"{ground.folder}/{AUDIT}": text}, body.commit_message(given))
            promoter.progress(f"pushing the approval to {proposal.branch}")
            try:
                commit = repository.push(commit, proposal.branch, expected=proposal.commit)
            except BranchMovedError:
                continue
            return _approved(promoter, environment, ground, replace(proposal, commit=commit, audit=audit))
    raise too_busy(to)


def _approval(promoter: Promoter, proposal: Proposal, reason: str | None) -> AuditLine:
    line = proposal.line
    given = AuditLine(
        action="approve",
        proposal=proposal.branch,
        model=line.model,
        environment=line.environment,
        wanted=line.wanted,
        at=promoter.now(),
        by=promoter.repository.identity(),
        login=promoter.login(),
        reason=reason,
    )
    if same_person(given, line):
        raise PromotionError(
            f"{given.login or given.by} made this proposal and cannot approve it",
            where=proposal.branch,
            remedy="Let somebody else run this command.",
        )
    return given


def _approved(promoter: Promoter, environment: EnvironmentSpec, ground: Ground, proposal: Proposal) -> Outcome:
    notes: list[str] = []
    request = promoter.find_pull_request(proposal.branch, ground.base, notes)
    if promoter.host is not None and request is not None and request.state == "open":
        try:
            promoter.host.approve(request.number, proposal.commit)
        except ServiceError as error:
            notes.append(f"the approval is in the audit file; the host took no review: {error.what}")
    outcome = promoter.outcome("approved", "approve", environment, ground, proposal.line, proposal, request)
    return replace(outcome, notes=(*outcome.notes, *notes))


def _one_proposal(ground: Ground, model: str, to: str, version: str | None) -> Proposal:
    matching = [p for p in ground.proposals if version in (None, p.line.wanted.version)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        which = f" of version {version}" if version is not None else ""
        raise UsageError(f"no proposal{which} is open for {model} in {to}", remedy="See: git ls-remote --heads origin")
    names = ", ".join(p.line.wanted.version for p in matching)
    raise UsageError(f"several proposals are open for {model} in {to}", remedy=f"Name one with --version: {names}.")
