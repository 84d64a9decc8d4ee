"""A bare Git repository on a stand-in host, checkouts of it by several people, and promoters over them."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from standin_git_host import StandInHost, standin_host

from slipway.contracts.evaluation import GateResult
from slipway.contracts.files import sha256_of
from slipway.contracts.project.promotion import PromotionSpec
from slipway.serving.promotion.address import parse_address
from slipway.serving.promotion.audit import Version
from slipway.serving.promotion.candidate import Candidate, Quality
from slipway.serving.promotion.git import checkout_of
from slipway.serving.promotion.hosts import host_of
from slipway.serving.promotion.promote import Promoter

ADDRESS = {"github": "https://github.example/acme/models.git", "gitlab": "git@gitlab.example:acme/models.git"}
TRAFFIC = {"gateway": {"name": "kserve-ingress-gateway", "namespace": "kserve"}, "hostnames": ["films.example.com"]}
POLICY = {"steps": [{"weight": 5, "minimum_dwell": "3s"}, {"weight": 100, "minimum_dwell": "3s", "minimum_samples": 0}]}


def git(directory: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def version(number: int, content: str = "") -> Version:
    digest = sha256_of(content or f"bundle {number}")
    return Version(version=str(number), digest=digest, uri=f"s3://bundles/films/{digest[:12]}")


def gate(passed: bool) -> GateResult:
    why = f"ndcg@10 is {0.31 if passed else 0.01:.4f}, at least 0.05 is required"
    return GateResult(
        gate="ndcg@10 >= 0.05", metric="ndcg@10", value=0.31, bound=0.05, relation=">=", passed=passed, why=why
    )


def candidate(number: int, *, passed: bool = True, **fields: Any) -> Candidate:
    quality = Quality({"ndcg@10": 0.3 + number / 100, "auc": None}, "full-rank over 9,000 items")
    known: dict[str, Any] = {
        "quality": quality,
        "card": f"# films\n\nVersion {number}, for @everyone.",
        "gates": (gate(passed),),
        "lineage": {"dataset": "sha256:d4", "git commit": "abc123"},
    }
    return Candidate("films", version(number), **(known | fields))


@dataclass
class Forge:
    """A bare repository on a host, and a checkout of it by Ada."""

    kind: str
    bare: Path
    checkout: Path
    host: StandInHost
    spec: PromotionSpec
    progress: list[str] = field(default_factory=list)

    def promoter(self, who: str = "ada", token: str | None = "token-of-ada", **changes: Any) -> Promoter:
        """Returns a promoter from a checkout of somebody's own."""
        checkout = self.checkout_of(who)
        spec = self.spec.model_copy(update=changes)
        address = parse_address(ADDRESS[self.kind])
        kind, host = host_of(spec, address, {"SLIPWAY_GIT_TOKEN": token} if token else {})
        moments = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(1000))
        return Promoter(
            checkout_of(checkout, "origin"),
            spec,
            policy=POLICY,
            kind=kind,
            address=address,
            host=host,
            progress=self.progress.append,
            now=lambda: next(moments),
        )

    def checkout_of(self, who: str) -> Path:
        """Returns somebody's checkout, which is made when it is first asked for."""
        checkout = self.checkout.with_name(who)
        if not checkout.exists():
            git(self.bare.parent, "clone", "--quiet", str(self.bare), str(checkout))
            configure(checkout, who, self.kind, self.bare)
        return checkout

    def merge(self, branch: str, *, squash: bool = False) -> None:
        """Merges a branch, as somebody does on the host's page."""
        work = self.checkout_of("merger")
        git(work, "fetch", "--quiet", "origin")
        git(work, "checkout", "--quiet", "-B", "main", "origin/main")
        git(work, "merge", "--quiet", *(["--squash"] if squash else ["--no-ff"]), f"origin/{branch}")
        if squash:
            git(work, "commit", "--quiet", "-m", "squashed")
        git(work, "push", "--quiet", "origin", "main")
        for request in self.host.requests:
            if request.branch == branch:
                self.host.close(request.number, merged=True)

    def read(self, path: str, branch: str = "main") -> str:
        return git(self.bare, "show", f"{branch}:manifests/models/films/{path}")

    def branches(self) -> list[str]:
        return git(self.bare, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()


def configure(checkout: Path, who: str, kind: str, bare: Path) -> None:
    """Lets a checkout look like one of the host: its address is the host's, and Git is told where that is."""
    git(checkout, "config", "user.name", who.title())
    git(checkout, "config", "user.email", f"{who}@example.com")
    git(checkout, "remote", "set-url", "origin", ADDRESS[kind])
    git(checkout, "config", f"url.{bare}.insteadOf", ADDRESS[kind])


def environments(**production: Any) -> list[dict[str, Any]]:
    return [
        {"name": "staging", "traffic": TRAFFIC},
        {"name": "production", "namespace": "films", "traffic": TRAFFIC, **production},
    ]


@functools.cache
def _template() -> Path:
    """A repository of one commit, and a checkout of it; copied for each test, as that is quicker than git."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-git-forge-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    bare, checkout = folder / "models.git", folder / "ada"
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(folder, "clone", "--quiet", str(bare), str(checkout))
    git(checkout, "config", "user.name", "Ada")
    git(checkout, "config", "user.email", "ada@example.com")
    (checkout / "README.md").write_text("our models\n")
    git(checkout, "checkout", "--quiet", "-B", "main")
    git(checkout, "add", "README.md")
    git(checkout, "commit", "--quiet", "-m", "start")
    git(checkout, "push", "--quiet", "origin", "main")
    return folder


@contextmanager
def forge_on(kind: str, folder: Path) -> Iterator[Forge]:
    """Gives a repository with one commit on a host."""
    shutil.copytree(_template(), folder, dirs_exist_ok=True, symlinks=True)
    bare, checkout = folder / "models.git", folder / "ada"
    configure(checkout, "ada", kind, bare)
    with standin_host(kind, bare) as host:
        spec = PromotionSpec.model_validate({"host": kind, "api": host.address, "environments": environments()})
        yield Forge(kind, bare, checkout, host, spec)
