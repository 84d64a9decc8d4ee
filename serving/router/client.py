"""A client's connection: requests are read whole, within limits, and answered in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from slipway.serving.router.exchange import Exchange
from slipway.serving.router.messages import CONTINUE, Header, Request, own_answer

_HEAD_BYTES = 65_536
_KEEP_ALIVE_SECONDS = 75.0
_READ_SECONDS = 30.0
_ANSWER_SECONDS = 30.0
_LINGER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a connection whose client made a mistake; its answer waits for its turn."""

    status: int
    reason: str


class Service(Protocol):
    """What a connection needs of the router."""

    maximum_body: int
    draining: bool

    def exchange_for(self, client: ClientConnection, request: Request) -> Exchange:
        """Chooses the arm of a request."""

    def answer_itself(self, request: Request) -> dict[str, object] | None:
        """Returns the answer to a request about the router itself, or None."""

    def count_failure(self, status: int) -> None:
        """Counts an answer that says why there is none."""

    def joined(self, connection: ClientConnection) -> None:
        """Learns of a new connection."""

    def left(self, connection: ClientConnection) -> None:
        """Learns that a connection has ended."""


class ClientConnection(asyncio.Protocol):
    """One connection of a client, one request at a time.

    Attributes:
        deadline: When `expire` is to be called, on the loop's clock.
        write_paused: Whether the client reads more slowly than it is written to.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request | Refusal] = deque()
        self._exchange: Exchange | None = None
        self._refused = False
        self._closing = False
        self._pending = 0
        self._begin_head()
        self.deadline = self._loop.time() + _KEEP_ALIVE_SECONDS
        self.write_paused = False

    def _begin_head(self) -> None:
        self._reading = False
        self._in_head = True
        self._head_bytes = 0
        self._target = b""
        self._headers: list[Header] = []
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def ends_soon(self) -> bool:
        """Whether the connection is closed after the running answer."""
        return self._service.draining

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no common class
        self._service.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives up what the client waited for."""
        del exc
        self._transport = None
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.abandon()
            self._exchange = None
        self._service.left(self)

    def pause_writing(self) -> None:
        """Slows the answer down."""
        self.write_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """Lets the answer go on."""
        self.write_paused = False
        if self._exchange is not None:
            self._exchange.resume()

    def data_received(self, data: bytes) -> None:
        """Parses what came; a request that is whole starts at once, or after those before it."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
                continue
            except httptools.HttpParserError as error:
                self._refuse(400, f"the request is not valid HTTP/1.1 ({str(error)[:100]})")
            break
        if self._in_head and self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"the head of the request is larger than {_HEAD_BYTES:,} bytes")
        self._next()
        if self._waiting and self._transport is not None:
            self._transport.pause_reading()

    # --- httptools

    def on_message_begin(self) -> None:
        """Starts the clock of a request."""
        self._reading = True
        if self._exchange is None:
            self.deadline = self._loop.time() + _READ_SECONDS

    def on_url(self, url: bytes) -> None:
        """Takes a part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; trailers are not passed on."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Refuses what is too large or coded, and asks for the body where the client waits for that."""
        if self._refused or self._asks_to_upgrade:
            return
        size = len(self._target) + sum(len(name) + len(value) for name, value in self._headers)
        self._in_head, self._head_bytes = False, 0
        if size > _HEAD_BYTES:
            self._refuse(431, f"the head of the request is larger than {_HEAD_BYTES:,} bytes")
            return
        for name, value in self._headers:
            if name == b"content-length" and (len(value) > 18 or int(value) > self._service.maximum_body):
                self._refuse_body()
                return
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                self._refuse(501, "the only transfer coding that is understood is chunked")
                return
            if name == b"expect" and value.lower() == b"100-continue" and self._exchange is None:
                self.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Keeps a part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._service.maximum_body:
            self._refuse_body()
        elif not self._refused:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Puts the request last in the line."""
        if self._refused or self._asks_to_upgrade:
            return
        method, version = self._parser.get_method(), self._parser.get_http_version()
        keep = self._parser.should_keep_alive() and version == "1.1"
        request = Request(method, self._target, self._headers, b"".join(self._body), keep, version)
        self._begin_head()
        if method == b"CONNECT":
            self._refuse(405, "this is no proxy for CONNECT")
        else:
            self._waiting.append(request)

    @property
    def _asks_to_upgrade(self) -> bool:
        return self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def _without_upgrade(self) -> bytes:
        """Returns the head again, as if it had not asked for another protocol: the parser skips the body if it does."""
        if self._parser.get_method() == b"CONNECT":
            return b""
        head = [self._parser.get_method(), b" ", self._target, b" HTTP/1.1\r\n"]
        for name, value in self._headers:
            if name not in (b"connection", b"upgrade"):
                head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        self._begin_head()
        self._parser = httptools.HttpRequestParser(self)
        return b"".join(head)

    # --- answers

    def write(self, data: bytes) -> None:
        """Sends a part of an answer."""
        if self._transport is not None:
            self._transport.write(data)
            self.deadline = self._loop.time() + _ANSWER_SECONDS

    def answered(self, *, close: bool) -> None:
        """Goes on to the next request, or ends."""
        self._exchange = None
        if close or self.ends_soon:
            self._waiting.clear()
            self._close()
            return
        self.deadline = self._loop.time() + (_READ_SECONDS if self._reading else _KEEP_ALIVE_SECONDS)
        self._next()
        if not self._waiting and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def answer_failure(self, status: int, reason: str, *, close: bool, head_only: bool) -> None:
        """Says why there is no answer; the connection may live on."""
        close = close or self.ends_soon
        self._service.count_failure(status)
        self.write(own_answer(status, {"error": reason}, close=close, head_only=head_only))
        self.answered(close=close)

    def abort(self) -> None:
        """Cuts the connection."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Ends what has taken too long: an answer, a request, or nothing at all."""
        pending = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if pending and pending != self._pending:
            self._pending = pending
            self.deadline = self._loop.time() + _ANSWER_SECONDS  # slow, and not gone
        elif self._exchange is not None:
            self._exchange.expire()
        elif self._reading and not self._closing:
            self._refuse(408, f"the request did not arrive within {_READ_SECONDS:g} seconds")
            self._next()
        elif pending or self._transport is None:
            self.abort()
        else:
            self._transport.close()  # what the kernel still holds is delivered

    def drain(self) -> None:
        """Ends now where nothing is under way, else after the answer."""
        if self._transport is not None and self._exchange is None and not self._waiting and not self._reading:
            self._transport.close()

    def _next(self) -> None:
        while self._exchange is None and self._waiting and not self._closing:
            item = self._waiting.popleft()
            if isinstance(item, Refusal):
                self._service.count_failure(item.status)
                self.write(own_answer(item.status, {"error": item.reason}, close=True))
                self._close()
                return
            content = self._service.answer_itself(item)
            if content is None:
                self.deadline = self._loop.time() + _ANSWER_SECONDS
                self._exchange = self._service.exchange_for(self, item)
                self._exchange.start()
                continue
            close = self.ends_soon or not item.may_keep
            self.write(own_answer(200, content, close=close, head_only=item.method == b"HEAD"))
            if close:
                self._close()

    def _refuse(self, status: int, reason: str) -> None:
        if not self._refused:
            self._refused = True
            self._waiting.append(Refusal(status, reason))

    def _refuse_body(self) -> None:
        self._refuse(413, f"the body is larger than {self._service.maximum_body:,} bytes")

    def _close(self) -> None:
        """Ends our side and waits a little for the client's, so that unread bytes do not reset what was written."""
        self._closing = self._refused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._transport.write_eof()
            self.deadline = self._loop.time() + _LINGER_SECONDS
