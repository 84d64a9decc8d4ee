"""Addresses of repositories, and texts of pull requests: what hosts take, and what they must not read into them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from git_forge import candidate, version

from slipway.serving.promotion.address import api_address, new_pull_request_page, parse_address
from slipway.serving.promotion.audit import Audit, AuditLine
from slipway.serving.promotion.body import LONGEST_CARD, commit_message, promotion_body
from slipway.serving.promotion.candidate import Quality


@pytest.mark.parametrize(
    ("text", "host", "path", "kind"),
    [
        ("https://github.com/acme/models.git", "github.com", "acme/models", "github"),
        ("https://ada:secret@github.com/acme/models", "github.com", "acme/models", "github"),
        ("git@github.com:acme/models.git", "github.com", "acme/models", "github"),
        ("ssh://git@gitlab.example:2222/group/sub/models.git", "gitlab.example", "group/sub/models", "gitlab"),
        ("https://git.example:8443/acme/models/", "git.example:8443", "acme/models", None),
        ("https://GitHub.com/Acme/Models", "github.com", "Acme/Models", "github"),
    ],
)
def test_an_address_is_read_in_every_spelling(text: str, host: str, path: str, kind: str | None) -> None:
    address = parse_address(text)
    assert address is not None
    assert (address.host, address.path, address.kind) == (host, path, kind)


@pytest.mark.parametrize(
    "text", ["/srv/models.git", "../models", "file:///srv/models.git", "https://github.com/", "", "a"]
)
def test_what_is_no_address_of_a_host_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_apis_and_pages_are_where_the_hosts_have_them() -> None:
    github, own, gitlab = (
        parse_address(text)
        for text in ("git@github.com:a/b.git", "https://github.acme.example/a/b", "https://gitlab.com/g/s/b.git")
    )
    assert github is not None
    assert own is not None
    assert gitlab is not None
    assert api_address("github", github) == "https://api.github.com"
    assert api_address("github", own) == "https://github.acme.example/api/v3"
    assert api_address("gitlab", gitlab) == "https://gitlab.com/api/v4"
    page = new_pull_request_page("github", github, "slipway/films/staging/v1-ab", "main")
    assert page == "https://github.com/a/b/compare/main...slipway%2Ffilms%2Fstaging%2Fv1-ab?expand=1"
    page = new_pull_request_page("gitlab", gitlab, "x/y", "main")
    assert page == (
        "https://gitlab.com/g/s/b/-/merge_requests/new?"
        "merge_request%5Bsource_branch%5D=x%2Fy&merge_request%5Btarget_branch%5D=main"
    )


def line(**changes: object) -> AuditLine:
    known: dict[str, object] = {
        "action": "promote",
        "proposal": "slipway/films/staging/v2-ab",
        "model": "films",
        "environment": "staging",
        "wanted": version(2),
        "replaces": version(1),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "by": "Ada <ada@example.com>",
    }
    return AuditLine.model_validate(known | changes)


def test_a_long_card_is_cut_at_a_line_and_what_hosts_take_is_never_exceeded() -> None:
    card = "\n".join(f"line {number} of a very long card" for number in range(10_000))
    text = promotion_body(candidate(2, card=card), line(), None, approvals=0, staged=None)
    assert len(text) < 65_000
    assert "(cut; `slipway models card` prints the whole)\n\n</details>" in text
    assert len(card) > LONGEST_CARD


def test_other_peoples_words_make_no_mentions_rows_or_code_of_their_own() -> None:
    forced = line(by="Eve `|` @all <eve@example.com>", reason="one | two\n\n## three @all", forced=("gate | x",))
    text = promotion_body(candidate(2, gates=()), forced, None, approvals=1, staged=None)
    assert "| asked for by | `Eve '\\|' @all <eve@example.com>` |" in text
    assert "\n## three" not in text
    assert "None is set, and none was checked." in text
    assert "give one with `slipway promote films --to staging --version 2 --approve`" in text


def test_metrics_of_another_protocol_are_shown_as_not_comparable() -> None:
    present = Quality({"ndcg@10": 0.5}, "candidates, 100 a user")
    text = promotion_body(candidate(2), line(), present, approvals=0, staged=None)
    assert "**Version 1 was measured otherwise**, and does not compare: candidates, 100 a user" in text


def test_a_commit_has_its_reason_and_trailers() -> None:
    message = commit_message(line(reason="weekly"))
    assert message.splitlines()[:3] == ["Promote films version 2 to staging", "", "weekly"]
    assert message.splitlines()[-1] == f"Slipway-Digest: {version(2).digest}"


def test_an_audit_line_reads_back_as_it_was_written() -> None:
    text = Audit("", "here").adding(line(reason="ümlaut \u2028 and \x0b odd\nlines"))
    assert text.count("\n") == 1
    assert Audit(text, "here").lines[0].reason == "ümlaut \u2028 and \x0b odd\nlines"
