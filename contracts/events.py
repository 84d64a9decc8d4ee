"""Events of serving: signed request ids, and the CloudEvents of predictions and of feedback.

A request id is made by the predictor and handed back by whoever reports a click. It is signed, so that feedback
can be believed without a look-up, and it holds model, version and issue time, so that feedback counts for the
version that answered. CloudEvents 1.0 (JSON format) is the envelope of everything that is captured.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.contracts.errors import EnvironmentProblemError

TOKEN_VERSION = 1
SIGNATURE_BYTES = 16
MAXIMUM_TOKEN_LENGTH = 512
KEY_BYTES = 32
KEY_VARIABLE = "SLIPWAY_SIGNING_KEY"
CLOCK_TOLERANCE_SECONDS = 60.0
CLICK = "click"
"""Type of the feedback that clicks are counted by."""
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"

_HEADER = struct.Struct(">BQ12sBB")  # token version, issue time in ms, nonce, lengths of model and version


class TokenOutcome(StrEnum):
    """What the check of a request id found."""

    OK = "ok"
    EXPIRED = "expired"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class RequestToken:
    """What a request id says: who answered and when (milliseconds since 1970)."""

    model: str
    version: str
    issued_ms: int
    nonce: bytes

    @property
    def issued(self) -> float:
        """Issue time in seconds since 1970."""
        return self.issued_ms / 1000.0


class RequestSigner:
    """Makes and checks request ids with one key, and hashes user ids with a salt derived from it.

    A request id is base64url, without padding, of: token version (1 byte), issue time in ms (8), nonce (12), two
    lengths (1 + 1), model, version, and HMAC-SHA256 over all of it cut to 16 bytes (RFC 2104).
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ValueError(f"a signing key has at least {KEY_BYTES} bytes, this one has {len(key)}")
        self._signing = hmac.new(_derive(key, b"slipway request id"), digestmod=hashlib.sha256)
        self._salt = hmac.new(_derive(key, b"slipway user salt"), digestmod=hashlib.sha256)

    def issue(self, model: str, version: str, now: float) -> str:
        """Returns a new request id for an answer of `model`, `version` at `now` (seconds since 1970)."""
        name, arm = model.encode(), version.encode()
        header = _HEADER.pack(TOKEN_VERSION, int(now * 1000), secrets.token_bytes(12), len(name), len(arm))
        body = header + name + arm
        return _encode(body + self._sign(body))

    def verify(self, text: str, *, now: float, expiry: float) -> tuple[TokenOutcome, RequestToken | None]:
        """Checks a request id.

        Args:
            text: The id as it came back.
            now: Seconds since 1970.
            expiry: Seconds after which an id is refused.

        Returns:
            FORGED and None for anything that this key did not sign, spelling included; else OK or EXPIRED and
            what the id says. An id from further in the future than clocks may differ is EXPIRED.
        """
        raw = _decode(text)
        if raw is None or len(raw) < _HEADER.size + SIGNATURE_BYTES:
            return TokenOutcome.FORGED, None
        body, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if not hmac.compare_digest(self._sign(body), signature):
            return TokenOutcome.FORGED, None
        token_version, issued_ms, nonce, model_length, arm_length = _HEADER.unpack_from(body)
        names = body[_HEADER.size :]
        if token_version != TOKEN_VERSION or len(names) != model_length + arm_length:
            return TokenOutcome.FORGED, None
        token = RequestToken(names[:model_length].decode(), names[model_length:].decode(), issued_ms, nonce)
        age = now - token.issued
        return (TokenOutcome.EXPIRED if age > expiry or age < -CLOCK_TOLERANCE_SECONDS else TokenOutcome.OK), token

    def hash_user(self, user: str) -> str:
        """Returns the 32 hexadecimal digits that stand for `user` in captured data of this project."""
        digest = self._salt.copy()
        digest.update(user.encode())
        return digest.hexdigest()[:32]

    def _sign(self, body: bytes) -> bytes:
        digest = self._signing.copy()
        digest.update(body)
        return digest.digest()[:SIGNATURE_BYTES]


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose, hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes | None:
    """Returns the bytes, or None unless `text` is their one canonical spelling (no alias passes deduplication)."""
    if not text or len(text) > MAXIMUM_TOKEN_LENGTH or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _encode(raw) == text else None


def signing_key(path: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """Returns the key of the environment (from a Secret of the cluster) or else that of the file.

    Raises:
        EnvironmentProblemError: The variable holds no key, or the file has none and none can be made.
    """
    text = environment.get(KEY_VARIABLE, "")
    return _checked_key(text, KEY_VARIABLE) if text else load_or_create_key(path)


def load_or_create_key(path: Path) -> bytes:
    """Returns the project's signing key, made at the first call; safe when several processes start at once.

    Raises:
        EnvironmentProblemError: The file cannot be written, is readable by others, or holds no key.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
            try:
                with os.fdopen(descriptor, "w") as handle:
                    handle.write(secrets.token_bytes(KEY_BYTES).hex() + "\n")
                    handle.flush()
                    os.fsync(handle.fileno())
                with contextlib.suppress(FileExistsError):  # another process was first; its key is the key
                    os.link(temporary, path)
            finally:
                Path(temporary).unlink()
        mode = path.stat().st_mode & 0o777
        text = path.read_text().strip()
    except OSError as error:
        raise EnvironmentProblemError(
            f"the signing key cannot be read or made ({error.strerror})",
            where=str(path),
            remedy="Change the rights of the folder.",
        ) from error
    if mode & 0o077:
        raise EnvironmentProblemError(
            f"the signing key can be read by others (mode {mode:o})", where=str(path), remedy=f"Run: chmod 600 {path}"
        )
    return _checked_key(text, str(path))


def _checked_key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise EnvironmentProblemError(
            f"this is no signing key of {KEY_BYTES} bytes in hexadecimal",
            where=where,
            remedy="Remove it; a file is made anew at the next start, and ids given out before it count as forged.",
        )
    return key


class _CloudEvent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    time: str
    datacontenttype: Literal["application/json"] = "application/json"


class AnsweredEntity(BaseModel):
    """One entity of a request and its answer. `user` is hashed; `features` is the status of the feature read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str
    items: tuple[str, ...]
    scores: tuple[float, ...] = ()
    fallback: str | None = None
    features: str = "none"


class PredictionData(BaseModel):
    """What was asked of which version and what it answered. `caller_id` is the caller's own request id.

    `trace_id` is the gateway's id of the request, which copies of it carry too; `shadow` marks the answer to a copy,
    which reached nobody.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    request_id: str
    model: str
    version: str
    replica: str = "0"
    caller_id: str | None = None
    trace_id: str | None = None
    shadow: bool = False
    latency_ms: float = Field(ge=0)
    entities: tuple[AnsweredEntity, ...]


class PredictionEvent(_CloudEvent):
    """One answered request."""

    type: Literal["dev.slipway.prediction.v1"] = "dev.slipway.prediction.v1"
    data: PredictionData


class FeedbackData(BaseModel):
    """What a user did with an item of an answer; `value` is for seconds watched, ratings and the like.

    A collector adds up the values of the types that it was told of, cut to between 0 and the type's maximum.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    request_id: str = Field(min_length=1, max_length=MAXIMUM_TOKEN_LENGTH)
    item: str = Field(min_length=1, max_length=256)
    type: str = Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_.-]*$")
    value: float | None = None


class FeedbackEvent(_CloudEvent):
    """Feedback that was believed, with the version that it counts for."""

    type: Literal["dev.slipway.feedback.v1"] = "dev.slipway.feedback.v1"
    model: str
    version: str
    outcome: str
    data: FeedbackData


def event_source(model: str, version: str) -> str:
    """Returns the CloudEvents source of a version's events."""
    return f"/slipway/models/{model}/versions/{version}"


def event_time(seconds: float) -> str:
    """Returns seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def prediction_event(data: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Returns the plain form of a PredictionEvent, cheap enough for every answer; a test holds it to the schema."""
    return {
        "specversion": "1.0",
        "id": data["request_id"],
        "source": event_source(data["model"], data["version"]),
        "type": "dev.slipway.prediction.v1",
        "time": event_time(seconds),
        "datacontenttype": "application/json",
        "data": data,
    }


class JoinedRequest(BaseModel):
    """A line of the captured data: an answered request with the feedback that came within the waiting time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prediction: PredictionEvent
    feedback: tuple[FeedbackEvent, ...]
    clicked: bool
