"""Request ids cannot be forged, altered, respelled or used for ever; the key is private."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.contracts.errors import EnvironmentProblemError
from slipway.contracts.events import (
    PredictionEvent,
    RequestSigner,
    TokenOutcome,
    load_or_create_key,
    prediction_event,
)

SIGNER = RequestSigner(b"k" * 32)
NOW = 1_700_000_000.25


def test_an_id_holds_who_answered_and_when_until_it_expires() -> None:
    text = SIGNER.issue("films", "2", NOW)
    outcome, token = SIGNER.verify(text, now=NOW + 10, expiry=60)
    assert outcome is TokenOutcome.OK
    assert token is not None
    assert (token.model, token.version, token.issued) == ("films", "2", NOW)
    assert SIGNER.verify(text, now=NOW + 61, expiry=60)[0] is TokenOutcome.EXPIRED
    assert SIGNER.verify(text, now=NOW - 3600, expiry=60)[0] is TokenOutcome.EXPIRED
    assert SIGNER.issue("films", "2", NOW) != text


def test_another_key_is_a_forgery() -> None:
    text = RequestSigner(b"x" * 32).issue("films", "2", NOW)
    assert SIGNER.verify(text, now=NOW, expiry=60) == (TokenOutcome.FORGED, None)


def test_no_character_of_an_id_can_be_changed_and_none_added() -> None:
    text = SIGNER.issue("films", "2", NOW)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/="
    for position in range(len(text)):
        for other in alphabet:
            altered = text[:position] + other + text[position + 1 :]
            if altered != text:
                assert SIGNER.verify(altered, now=NOW, expiry=60)[0] is TokenOutcome.FORGED
    for altered in (text + "=", text + "A", " " + text, text + "\n", text[:-1], text.swapcase()):
        assert SIGNER.verify(altered, now=NOW, expiry=60)[0] is TokenOutcome.FORGED


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_forgery_and_never_an_error(text: str) -> None:
    assert SIGNER.verify(text, now=NOW, expiry=60) == (TokenOutcome.FORGED, None)


def test_users_are_hashed_with_the_projects_salt() -> None:
    assert SIGNER.hash_user("42") == SIGNER.hash_user("42")
    assert SIGNER.hash_user("42") != SIGNER.hash_user("43")
    assert SIGNER.hash_user("42") != RequestSigner(b"x" * 32).hash_user("42")
    assert SIGNER.hash_user("42") != "42"


def test_processes_that_start_at_once_agree_on_one_private_key(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "key"
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(load_or_create_key(path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 16
    assert len(set(keys)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_a_key_that_others_can_read_or_that_is_none_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(0o644)
    with pytest.raises(EnvironmentProblemError, match="chmod 600"):
        load_or_create_key(path)
    path.write_text("not hexadecimal")
    path.chmod(0o600)
    with pytest.raises(EnvironmentProblemError, match="no signing key"):
        load_or_create_key(path)


def test_the_cheap_event_is_the_schemas_event() -> None:
    data = {
        "request_id": SIGNER.issue("films", "2", NOW),
        "model": "films",
        "version": "2",
        "replica": "0",
        "caller_id": None,
        "latency_ms": 1.5,
        "entities": [{"user": "ab", "items": ["1"], "scores": [0.5], "fallback": None, "features": "none"}],
    }
    event = PredictionEvent.model_validate(prediction_event(data, seconds=NOW))
    assert event.time == "2023-11-14T22:13:20.250Z"
    assert event.source == "/slipway/models/films/versions/2"
    assert event.data.entities[0].items == ("1",)
