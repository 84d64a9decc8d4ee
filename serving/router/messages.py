"""HTTP/1.1 heads as they are passed on: what concerns one connection only is taken out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import orjson

ARM_HEADER = b"x-slipway-arm"
Header = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"content-length", b"expect", ARM_HEADER}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(slots=True)
class Request:
    """A whole request of a client.

    Attributes:
        headers: With names in lower case, in the order of arrival.
        may_keep: Whether the client's connection may live on after the answer.
        version: "1.0" or "1.1".
    """

    method: bytes
    target: bytes
    headers: list[Header]
    body: bytes
    may_keep: bool
    version: str

    def header(self, name: bytes) -> bytes | None:
        """Returns the first value of a header."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def has_body(self) -> bool:
        """Whether a body was announced, be it an empty one."""
        return bool(self.body) or any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)


def request_for_upstream(request: Request, arm: bytes) -> bytes:
    """Returns the request as it is sent on: whole, with its length, and with the arm that it goes to."""
    named = connection_options(request.headers)
    parts = [request.method, b" ", request.target, b" HTTP/1.1\r\n"]
    for name, value in request.headers:
        if name not in _NOT_FORWARDED and name not in named:
            parts += (name, b": ", value, b"\r\n")
    parts += (ARM_HEADER, b": ", arm, b"\r\n")
    if request.has_body:
        parts += (b"content-length: ", str(len(request.body)).encode(), b"\r\n")
    parts += (b"\r\n", request.body)
    return b"".join(parts)


def response_head(
    status: int, reason: bytes, headers: Iterable[Header], *, chunked: bool, close: bool, kept: Iterable[Header] = ()
) -> bytes:
    """Returns the head of an answer as it is passed back.

    Args:
        status: Its code.
        reason: Its reason phrase.
        headers: As they came.
        chunked: Whether the body follows in chunks.
        close: Whether the connection ends after it.
        kept: Headers to add.
    """
    parts = [b"HTTP/1.1 ", str(status).encode(), b" ", reason, b"\r\n"]
    headers = list(headers)
    named = connection_options(headers)
    for name, value in (*headers, *kept):
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named:
            parts += (name, b": ", value, b"\r\n")
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    if close:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def own_answer(status: int, content: dict[str, object], *, close: bool, head_only: bool = False) -> bytes:
    """Returns a whole answer of the router itself, in JSON."""
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    head = response_head(status, HTTPStatus(status).phrase.encode(), headers, chunked=False, close=close)
    return head if head_only else head + body


def connection_options(headers: Iterable[Header]) -> frozenset[bytes]:
    """Returns the names that `Connection` lists, in lower case: they end here too (RFC 9110, section 7.6.1)."""
    options: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            options.update(option.strip().lower() for option in value.split(b","))
    # A client must not be able to take out what frames the message or names its user.
    return frozenset(options - {b"", b"content-length", b"host", b"x-slipway-user"})
