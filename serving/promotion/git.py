"""A Git repository through the git program, without its working tree, index or branches.

A commit is made from a tree of the remote's branch in an index of its own (`GIT_INDEX_FILE`), and is pushed by its
hash. Nothing is checked out and no branch is made, so a command that is killed leaves nothing to clean up, and whatever
the user has in progress is neither seen nor changed. Fetches leave the user's remote branches alone too; a push notes
the new branch of the remote, as every push does.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway.contracts.errors import EnvironmentProblemError, LockHeldError, ServiceError, UsageError
from slipway.contracts.files import exclusive_lock
from slipway.serving.promotion.repository import BranchMovedError, Remote

LOCAL_SECONDS = 60.0
NETWORK_SECONDS = 300.0
LOCK_SECONDS = 120.0
_LOCK = "slipway-promotion.lock"

_MOVED = ("stale info", "non-fast-forward", "fetch first", "already exists", "cannot lock ref", "failed to update")
_UNKNOWN = ("Authentication failed", "could not read", "Permission denied", "error: 403")

# Set while git itself runs a hook; they would point the program at another repository or index.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_COMMON_DIR")


@dataclass(frozen=True)
class Repository:
    """A repository on this machine, and the remote that it is promoted to.

    Args:
        directory: A checkout, or a bare repository.
        remote: Name or address of the remote.
        bare: True where there is no working tree that could be dirty; fetches are shallow then.
        variables: Further environment of git, such as how it gets a password; never printed.
    """

    directory: Path
    remote: str
    bare: bool = False
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def look(self, *patterns: str) -> Remote:
        """Asks the remote for its main branch and for branches by name or pattern.

        Raises:
            ServiceError: It does not answer, or refuses.
        """
        references = [f"refs/heads/{pattern}" for pattern in patterns]
        text = self._ask("ls-remote", "--symref", "--", self.remote, "HEAD", *references)
        main, branches = None, {}
        for line in text.splitlines():
            target, _, name = line.partition("\t")
            if name == "HEAD" and target.startswith("ref: refs/heads/"):
                main = target.removeprefix("ref: refs/heads/")
            elif name == "HEAD" and main is not None:
                branches[main] = target
            elif name.startswith("refs/heads/"):
                branches[name.removeprefix("refs/heads/")] = target
        return Remote(main, branches)

    def fetch(self, remote: Remote, branches: Sequence[str]) -> None:
        """Brings the commits of branches here, writing no reference.

        Raises:
            ServiceError: The remote does not answer, or refuses.
            BranchMovedError: A branch was rewritten or removed since it was looked at.
        """
        wanted = [branch for branch in branches if not self._has(remote.branches[branch])]
        if not wanted:
            return
        depth = ["--depth=1"] if self.bare else []
        quiet = ["--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", "--no-auto-maintenance"]
        self._ask("fetch", *quiet, *depth, "--", self.remote, *(f"refs/heads/{branch}" for branch in wanted))
        for branch in wanted:
            if not self._has(remote.branches[branch]):
                raise BranchMovedError(branch)

    def read(self, commit: str, path: str) -> str | None:
        """Returns a file of a commit as text, or None if it has no such file."""
        return self.read_all(commit, [path])[path]

    def read_all(self, commit: str, paths: Sequence[str]) -> dict[str, str | None]:
        """Returns files of a commit as text, by path, None where it has no such file."""
        wanted = "".join(f"{commit}:{path}\n" for path in paths)
        rest = self._git("cat-file", "--batch", text=wanted).encode(errors="surrogateescape")
        found: dict[str, str | None] = {}
        for path in paths:
            head, _, rest = rest.partition(b"\n")
            words = head.split(b" ")
            if words[-1] == b"missing" or not words[-1].isdigit():
                found[path] = None
                continue
            size = int(words[-1])
            content, rest = rest[:size], rest[size + 1 :]
            found[path] = content.decode(errors="surrogateescape") if words[-2] == b"blob" else None
        return found

    def folders(self, commit: str, path: str) -> list[str]:
        """Returns the names of the folders in a folder of a commit."""
        listing = self._git("ls-tree", "-z", "-d", "--name-only", commit, "--", f"{path}/")
        return [entry.rsplit("/", 1)[-1] for entry in listing.split("\0") if entry]

    def commit(self, parent: str, files: Mapping[str, str], message: str) -> str:
        """Makes a commit on top of `parent` in which `files` have new content; returns its hash.

        Raises:
            EnvironmentProblemError: Git does not know who commits, or cannot write.
        """
        with tempfile.TemporaryDirectory(prefix="slipway-promotion-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", parent, variables=index)
            for path, content in files.items():
                blob = self._git("hash-object", "-w", "--stdin", f"--path={path}", text=content).strip()
                self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", variables=index)
            tree = self._git("write-tree", "--missing-ok", variables=index).strip()
        signed = self._git("config", "--type=bool", "--default=false", "commit.gpgsign").strip() == "true"
        signature = ["-S"] if signed else []
        return self._git("commit-tree", tree, "-p", parent, *signature, "-F", "-", text=message).strip()

    def push(self, commit: str, branch: str, *, expected: str | None) -> str:
        """Makes the remote's branch point at a commit, provided that it still is where it was; returns the commit.

        Args:
            commit: Here.
            branch: There.
            expected: Its present commit, or None if it must not exist yet.

        Raises:
            BranchMovedError: Somebody else was quicker.
            ServiceError: The remote refuses (a protected branch, a hook, no rights) or does not answer.
        """
        lease = f"--force-with-lease=refs/heads/{branch}:{expected or ''}"
        done = self._run("push", "--porcelain", lease, "--", self.remote, f"{commit}:refs/heads/{branch}", network=True)
        if done.returncode == 0:
            return commit
        refusals = [line for line in done.stdout.splitlines() if line.startswith("!")]
        reason = refusals[0].rpartition("\t")[2] if refusals else ""
        if any(words in reason for words in _MOVED) and self.look(branch).branches.get(branch) != expected:
            raise BranchMovedError(branch)
        if not refusals:
            raise self._refused(done)
        said = [line.removeprefix("remote:").strip() for line in done.stderr.splitlines() if line.startswith("remote:")]
        words = " ".join(line for line in said if line)[:500]
        raise ServiceError(
            f"the push of {branch} was refused: {reason}{f' ({_safe(words)})' if words else ''}",
            where=self.shown_remote,
            remedy="Allow whoever promotes to push branches under slipway/; a rule of the host, or a hook, forbids it.",
        )

    def diff(self, before: str, after: str, path: str) -> str:
        """Returns the difference of two commits below a path, as `git diff` prints it."""
        plain = ["--no-color", "--no-ext-diff", "--no-renames"]
        return self._git("diff", *plain, before, after, "--", path)

    def changes(self, path: str) -> list[str]:
        """Returns what the working tree has below a path that is not committed, as `git status` prints it."""
        if self.bare:
            return []
        listing = self._git("--no-optional-locks", "status", "--porcelain", "--untracked-files=all", "--", f":/{path}")
        return listing.splitlines()

    def resolve(self, revision: str) -> str:
        """Returns the commit that a revision names.

        Raises:
            UsageError: There is none.
        """
        done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if done.returncode:
            raise UsageError(f"{revision!r} is no commit here", where=str(self.directory), remedy="Fetch it first.")
        return done.stdout.strip()

    def merge_base(self, one: str, other: str) -> str:
        """Returns the commit at which two histories part; `one` itself where Git does not have it (a shallow clone)."""
        done = self._run("merge-base", one, other)
        return done.stdout.strip() or one

    def identity(self) -> str:
        """Returns who commits, as `Name <address>`.

        Raises:
            EnvironmentProblemError: Git does not know.
        """
        return self._git("var", "GIT_AUTHOR_IDENT").rpartition(">")[0] + ">"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one promotion of this repository run at a time on this machine; a second one waits for its turn.

        Raises:
            LockHeldError: The other one did not end in two minutes.
        """
        folder = self.directory / self._git("rev-parse", "--git-common-dir").strip()
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            with contextlib.ExitStack() as stack:
                try:
                    lock = exclusive_lock(folder / _LOCK, holder="a promotion", remedy="Wait for it to end.")
                    stack.enter_context(lock)
                except LockHeldError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    yield
                    return
            time.sleep(0.1)

    @property
    def shown_remote(self) -> str:
        """The remote as it may be printed: without credentials."""
        return _safe(self.remote)

    def _has(self, commit: str) -> bool:
        return self._run("cat-file", "-e", f"{commit}^{{commit}}", variables={"GIT_NO_LAZY_FETCH": "1"}).returncode == 0

    def _ask(self, *arguments: str) -> str:
        done = self._run(*arguments, network=True)
        if done.returncode:
            raise self._refused(done)
        return done.stdout

    def _refused(self, done: subprocess.CompletedProcess[str]) -> ServiceError:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:", "remote:", "ssh:"))]
        said = _safe(" ".join(lines or done.stderr.splitlines()))[:500]
        unknown = any(words in said for words in _UNKNOWN)
        return ServiceError(
            f"the Git remote {'refuses' if unknown else 'does not answer'}: {said or 'git said nothing'}",
            where=self.shown_remote,
            remedy="Set SLIPWAY_GIT_TOKEN, or set git up so that `git fetch` works here."
            if unknown
            else "Check its address and the network; nothing was changed, run the command again.",
        )

    def _git(self, *arguments: str, text: str | None = None, variables: Mapping[str, str] | None = None) -> str:
        done = self._run(*arguments, text=text, variables=variables)
        if done.returncode == 0:
            return done.stdout
        said = _safe(done.stderr.strip())
        if "tell me who you are" in said or "empty ident" in said or "no email was given" in said:
            raise EnvironmentProblemError(
                "git does not know who you are",
                where=str(self.directory),
                remedy="Run: git config user.name 'Your Name' && git config user.email you@example.com",
            )
        raise EnvironmentProblemError(
            f"git {arguments[0]} failed: {said[:500] or 'no message'}",
            where=str(self.directory),
            remedy="Check the repository with: git fsck",
        )

    def _run(
        self,
        *arguments: str,
        text: str | None = None,
        variables: Mapping[str, str] | None = None,
        network: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"} | dict(self.variables) | dict(variables or {})
        try:
            # Bytes, as text mode would change the ends of a file's lines.
            done = subprocess.run(
                ["git", "-C", str(self.directory), *arguments],
                input=(text or "").encode(errors="surrogateescape"),
                capture_output=True,
                env=environment,
                timeout=NETWORK_SECONDS if network else LOCAL_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise EnvironmentProblemError(
                "the program git is not installed", remedy="Install it, as with: apt-get install git"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ServiceError(
                f"git {arguments[0]} did not end within {error.timeout:.0f} s",
                where=self.shown_remote,
                remedy="Check the network; nothing half-done is left, run the command again.",
            ) from error
        output, messages = (part.decode(errors="surrogateescape") for part in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, output, messages)


def checkout_of(directory: Path, remote: str) -> Repository:
    """Returns the repository whose checkout holds a folder.

    Raises:
        UsageError: The folder is in no checkout, or the checkout has no such remote.
    """
    probe = Repository(directory, remote)
    top = probe._run("rev-parse", "--show-toplevel")
    if top.returncode:
        raise UsageError(
            "the project is in no Git checkout, and promotion has no repository to change",
            where=str(directory),
            remedy="Name one in slipway.yaml: promotion: {repository: https://github.com/you/deployments.git}",
        )
    repository = Repository(Path(top.stdout.strip()), remote)
    if address_of(repository) is None:
        raise UsageError(
            f"the checkout has no remote {remote!r}",
            where=str(repository.directory),
            remedy=f"Add it with: git remote add {remote} ADDRESS",
        )
    return repository


def cached_repository(address: str, folder: Path) -> Repository:
    """Returns a bare repository in `folder` that promotes to an address; it is made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = Repository(folder, address, bare=True)
    if not (folder / "HEAD").is_file():
        repository._git("init", "--quiet", "--bare")
    return repository


def address_of(repository: Repository) -> str | None:
    """Returns the remote's address as it was written, or None if there is no such remote."""
    if repository.bare:
        return repository.remote
    done = repository._run("config", "--get", f"remote.{repository.remote}.url")
    return done.stdout.strip() or None


def _safe(text: str) -> str:
    """Returns a text without the credentials that an address in it may hold."""
    return re.sub(r"(://)[^/@\s]+@", r"\1", text)
