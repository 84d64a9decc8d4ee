"""Promotion by pull request: one commit on a branch of its own that changes one folder, pushed once, proposed once.

The branch is named by what is proposed, so whoever proposes the same again finds it: after a kill, on another machine,
or at the same moment, where the remote takes the first push only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from slipway.contracts.errors import PromotionError, ServiceError, UsageError
from slipway.contracts.project.promotion import EnvironmentSpec, PromotionSpec
from slipway.serving.promotion import body
from slipway.serving.promotion.address import HostKind, RepositoryAddress, new_pull_request_page
from slipway.serving.promotion.audit import AUDIT, Audit, AuditLine, Version
from slipway.serving.promotion.candidate import Candidate, Outcome, QualityOf
from slipway.serving.promotion.ground import ATTEMPTS, Ground, Proposal, find_environment, folder_of, read_ground
from slipway.serving.promotion.hosts import Host, PullRequest
from slipway.serving.promotion.http_api import NoAnswerError
from slipway.serving.promotion.manifests import Defaults, promoted_files
from slipway.serving.promotion.repository import BranchMovedError, PromotionRepository
from slipway.serving.promotion.rules import refusal, violations


@dataclass(frozen=True)
class Wish:
    """What is to be proposed: the event for the audit file, and the text of its pull request."""

    line: AuditLine
    text: str


class Promoter:
    """Proposes changes of versions to one repository.

    Args:
        repository: Here, with its remote.
        spec: The project's `promotion:`.
        policy: The project's `rollout:` as it is written, for first manifests.
        kind: Of the host, where it is known.
        address: Of the repository on its host.
        host: Opens pull requests; None without a token, and then the branch is all.
        progress: Is told each step, in one line.
        now: The clock.
    """

    def __init__(
        self,
        repository: PromotionRepository,
        spec: PromotionSpec,
        *,
        policy: Mapping[str, Any] | None = None,
        kind: HostKind | None = None,
        address: RepositoryAddress | None = None,
        host: Host | None = None,
        progress: Callable[[str], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0),
    ) -> None:
        self.repository = repository
        self.spec = spec
        self.policy = policy or {}
        self.kind = kind
        self.address = address
        self.host = host
        self.progress = progress
        self.now = now

    def promote(
        self,
        candidate: Candidate,
        to: str,
        *,
        reason: str | None = None,
        force: bool = False,
        dry_run: bool = False,
        quality_of: QualityOf = lambda _: None,
    ) -> Outcome:
        """Proposes a version for an environment, unless it is there or proposed already.

        Args:
            candidate: The version, with the environment's gates checked.
            to: The environment.
            reason: Why; required with `force`.
            force: Propose it although an order or a gate forbids it, and write down what was overridden.
            dry_run: Stop before anything is pushed.
            quality_of: Looks up the version that it takes the place of.

        Raises:
            PromotionError: The environment before has not promoted it, the folder has changes, or an audit was altered.
            GateError: A gate is not met.
            UsageError: There is no such environment, or the project says too little.
            ServiceError: The remote or the host refuses, or does not answer.
        """
        if force and not (reason or "").strip():
            raise UsageError("--force needs a reason, which is written down", remedy="Add --reason '...'.")
        environment = find_environment(self.spec, to)
        stem = f"slipway/{candidate.model}/{to}/v{candidate.version.version}-{candidate.version.digest[:8]}"

        def wish(ground: Ground) -> Wish:
            audits = {to: ground.audit}

            def audit_of(other: EnvironmentSpec) -> Audit:
                if other.name not in audits:
                    audits[other.name] = read_ground(self.repository, self.spec, candidate.model, other).audit
                return audits[other.name]

            broken = violations(candidate, environment, self.spec, audit_of)
            before = self.spec.before(to)
            if broken and not force:
                raise refusal(broken, candidate, environment, before.name if before is not None else None)
            line = AuditLine(
                action="promote",
                proposal=ground.audit.next_proposal(stem),
                model=candidate.model,
                environment=to,
                wanted=candidate.version,
                replaces=ground.present,
                at=self.now(),
                by=self.repository.identity(),
                login=None if dry_run else self.login(),
                reason=reason,
                forced=tuple(violation.text for violation in broken),
                gates=tuple(f"{gate.gate}: {'met' if gate.passed else 'not met'}" for gate in candidate.gates),
            )
            present = quality_of(ground.present) if ground.present is not None else None
            staged = audit_of(before).promoted(candidate.version.digest) if before is not None else None
            text = body.promotion_body(candidate, line, present, approvals=environment.approvals, staged=staged)
            return Wish(line, text)

        return self._propose(environment, candidate.model, candidate.version, "promote", wish, dry_run=dry_run)

    def revert(
        self, model: str, to: str, serving: Version, *, reason: str | None = None, dry_run: bool = False
    ) -> Outcome:
        """Proposes to bring Git back to the version that serves, after a rollout went back.

        No order and no gate is asked: nothing that serves changes.

        Args:
            model: The registered model.
            to: The environment.
            serving: The version that has the traffic there.
            reason: Why the other one went back.
            dry_run: Stop before anything is pushed.

        Raises:
            As `promote`.
        """
        environment = find_environment(self.spec, to)

        def wish(ground: Ground) -> Wish:
            if ground.present is None:
                raise PromotionError(
                    f"nothing was promoted to {to} yet, so nothing can be reverted", where=ground.folder
                )
            stem = f"slipway/{model}/{to}/revert-v{ground.present.version}-to-v{serving.version}-{serving.digest[:8]}"
            line = AuditLine(
                action="revert",
                proposal=ground.audit.next_proposal(stem),
                model=model,
                environment=to,
                wanted=serving,
                replaces=ground.present,
                at=self.now(),
                by=self.repository.identity(),
                login=None if dry_run else self.login(),
                reason=reason,
            )
            return Wish(line, body.revert_body(line))

        return self._propose(environment, model, serving, "revert", wish, dry_run=dry_run)

    def _propose(
        self,
        environment: EnvironmentSpec,
        model: str,
        wanted: Version,
        action: str,
        wish: Callable[[Ground], Wish],
        *,
        dry_run: bool,
    ) -> Outcome:
        self._refuse_changes(folder_of(self.spec, model, environment.name))
        with self.repository.alone():
            for _ in range(ATTEMPTS):
                ground = self.look(model, environment)
                if ground.present is not None and ground.present.digest == wanted.digest:
                    return _current(ground, model, environment, wanted, action)
                same = [p for p in ground.proposals if p.line.wanted.digest == wanted.digest]
                found = next((p for p in same if p.line.action == action), None)
                if found is not None:
                    return self._found(environment, ground, found, wish, dry_run=dry_run)
                new = wish(ground)
                proposal = self._commit(ground, new.line, environment)
                if dry_run:
                    return self.outcome("dry-run", action, environment, ground, new.line, proposal)
                self.progress(f"pushing {proposal.branch}")
                try:
                    pushed = self.repository.push(proposal.commit, proposal.branch, expected=None)
                except BranchMovedError:
                    self.progress("somebody else proposed it at the same moment; looking again")
                    continue
                return self._open(environment, ground, replace(proposal, commit=pushed), new.text)
        raise too_busy(environment.name)

    def _refuse_changes(self, folder: str) -> None:
        changes = self.repository.changes(folder)
        if changes:
            raise PromotionError(
                f"the folder has changes that are not committed: {', '.join(line[3:] for line in changes[:5])}",
                where=folder,
                remedy="Commit and merge them, or take them back: a pull request would leave them out.",
            )

    def look(self, model: str, environment: EnvironmentSpec) -> Ground:
        """Reads where a model stands in an environment; see `read_ground`."""
        self.progress(f"reading {environment.branch or self.spec.branch or 'the main branch'} of {self._place}")
        return read_ground(self.repository, self.spec, model, environment)

    @property
    def _place(self) -> str:
        return self.address.page if self.address is not None else self.repository.shown_remote

    def _commit(self, ground: Ground, line: AuditLine, environment: EnvironmentSpec) -> Proposal:
        defaults = Defaults(environment, self.policy)
        files = promoted_files(ground.files, line.model, line.wanted, defaults, ground.folder)
        files[AUDIT] = ground.audit.adding(line)
        paths = {f"{ground.folder}/{name}": content for name, content in files.items()}
        commit = self.repository.commit(ground.commit, paths, body.commit_message(line))
        return Proposal(line.proposal, commit, line, Audit(files[AUDIT], ground.folder), stale=False)

    def _open(self, environment: EnvironmentSpec, ground: Ground, proposal: Proposal, text: str) -> Outcome:
        action = proposal.line.action
        if self.host is None:
            return self.outcome("pushed", action, environment, ground, proposal.line, proposal)
        self.progress("opening the pull request")
        try:
            request = self.host.open(body.title(proposal.line), text, proposal.branch, ground.base)
        except ServiceError as error:
            page = self._page(proposal.branch, ground.base)
            raise ServiceError(
                f"{proposal.branch} is pushed, but its pull request is not open: {error.what}",
                where=error.where,
                remedy=f"{error.remedy or ''} Then run the command again, which finds the branch"
                + (f"; or open it yourself: {page}" if page else "."),
            ) from error
        return self.outcome("opened", action, environment, ground, proposal.line, proposal, request)

    def _found(
        self,
        environment: EnvironmentSpec,
        ground: Ground,
        proposal: Proposal,
        wish: Callable[[Ground], Wish],
        *,
        dry_run: bool,
    ) -> Outcome:
        """Reports a proposal that is there, and opens its pull request where that is still missing."""
        line = proposal.line
        notes: list[str] = []
        request = None if dry_run else self.find_pull_request(proposal.branch, ground.base, notes)
        if request is None and self.host is not None and not dry_run and not proposal.stale and not notes:
            return self._open(environment, ground, proposal, wish(ground).text)
        if proposal.stale:
            notes.append(f"{ground.base} has changed since: close it, delete its branch, and promote again")
        if request is not None and request.state == "closed":
            notes.append("it was closed without being merged: reopen it, or delete its branch and promote again")
        outcome = self.outcome("exists", line.action, environment, ground, line, proposal, request)
        return replace(outcome, notes=(*outcome.notes, *notes))

    def find_pull_request(self, branch: str, base: str, notes: list[str]) -> PullRequest | None:
        """Returns the pull request of a branch; a host that does not answer becomes a note."""
        if self.host is None:
            return None
        try:
            return self.host.find(branch, base)
        except NoAnswerError as error:
            notes.append(f"whether a pull request is open is not known: {error.what}")
            return None

    def login(self) -> str | None:
        """Returns whose token it is; a token that is refused ends the command before anything is pushed."""
        if self.host is None:
            return None
        try:
            return self.host.login()
        except NoAnswerError as error:
            self.progress(f"{error.what}; going on as far as git goes")
            return None

    def _page(self, branch: str, base: str) -> str | None:
        return new_pull_request_page(self.kind, self.address, branch, base) if self.address is not None else None

    def outcome(
        self,
        status: Any,
        action: Any,
        environment: EnvironmentSpec,
        ground: Ground,
        line: AuditLine,
        proposal: Proposal,
        request: PullRequest | None = None,
    ) -> Outcome:
        """Returns what is told of a proposal."""
        others = [other.branch for other in ground.proposals if other.branch != proposal.branch]
        approvals = environment.approvals if line.action == "promote" else 0
        return Outcome(
            status=status,
            action=action,
            model=line.model,
            environment=environment.name,
            version=line.wanted.version,
            digest=line.wanted.digest,
            replaces=line.replaces.version if line.replaces is not None else None,
            base=ground.base,
            branch=proposal.branch,
            commit=proposal.commit,
            pull_request=request.url if request is not None else None,
            state=request.state if request is not None else None,
            open_page=None if request is not None else self._page(proposal.branch, ground.base),
            approvals=len(proposal.audit.approvals(proposal.branch)),
            approvals_needed=approvals,
            forced=line.forced,
            diff=self.repository.diff(ground.commit, proposal.commit, ground.folder),
            notes=tuple(f"another proposal is open for {environment.name}: {branch}" for branch in others),
        )


def _current(ground: Ground, model: str, environment: EnvironmentSpec, wanted: Version, action: Any) -> Outcome:
    return Outcome(
        status="current",
        action=action,
        model=model,
        environment=environment.name,
        version=wanted.version,
        digest=wanted.digest,
        replaces=None,
        base=ground.base,
        notes=(f"{ground.base} names this version for {environment.name} already",),
    )


def too_busy(environment: str) -> ServiceError:
    """Returns the error for a remote that never stood still long enough."""
    return ServiceError(
        f"the branches of {environment} kept changing", remedy="Somebody else is promoting: run the command again."
    )
