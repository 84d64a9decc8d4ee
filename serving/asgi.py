"""What the servers share below any framework: limited bodies, JSON answers, and refusals with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DISCARD_FACTOR = 16  # bodies of up to this many times the limit are read and thrown away, so the connection lives on


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that ends here, with its status and reason; `retry_after` says in how many seconds to ask again."""

    def __init__(self, status: int, reason: str, *, close: bool = False, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.close = close
        self.retry_after = retry_after


async def read_body(scope: Scope, receive: Receive, *, limit: int, seconds: float = 30.0) -> bytes:
    """Returns the body.

    Raises:
        Refusal: 413 when it has more than `limit` bytes, 408 when it does not arrive within `seconds`, 400 when the
            client goes away.
    """
    declared = dict(scope["headers"]).get(b"content-length", b"")
    if len(declared) > 18 or (declared.isdigit() and int(declared) > limit * _DISCARD_FACTOR):
        raise Refusal(413, _too_large(limit), close=True)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise Refusal(413, _too_large(limit))
        return body
    try:
        async with asyncio.timeout(seconds):
            return await _read_parts(receive, message, limit)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {seconds:g} seconds", close=True) from None


async def _read_parts(receive: Receive, message: Message, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if size > limit * _DISCARD_FACTOR:
            raise Refusal(413, _too_large(limit), close=True)
        if not message.get("more_body"):
            if size > limit:
                raise Refusal(413, _too_large(limit))
            return b"".join(parts)
        message = await receive()
    raise Refusal(400, "the client went away before its body was complete", close=True)


def replay(body: bytes, receive: Receive) -> Receive:
    """Returns a receive function that gives `body` first, for an application that reads it again."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def send_json(
    send: Send, status: int, content: bytes, *, close: bool = False, retry_after: int | None = None
) -> None:
    """Sends encoded JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def send_error(
    send: Send, status: int, reason: str, *, close: bool = False, retry_after: int | None = None
) -> None:
    """Sends {"error": reason}."""
    await send_json(send, status, orjson.dumps({"error": reason}), close=close, retry_after=retry_after)


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit:,} bytes"
