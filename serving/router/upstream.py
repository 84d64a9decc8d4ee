"""Connections to the one server behind the router, kept open and used again."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from slipway.serving.router.messages import Header

_CONNECT_SECONDS = 1.0
# Servers close idle connections after 5 s and more (uvicorn 5, Traefik 180): the router is the first to do so.
_IDLE_SECONDS = 3.0


class Receiver(Protocol):
    """Whoever waits for an answer. All is called on the event loop, and `failed` at most once, instead of `ended`."""

    def began(self, status: int, reason: bytes, headers: list[Header], length: int | None) -> None:
        """Takes the head; `length` is None where the body ends with a chunk or with the connection."""

    def continued(self, data: bytes) -> None:
        """Takes a part of the body."""

    def flush(self) -> None:
        """Sends on what came so far."""

    def ended(self) -> None:
        """Learns that the answer is whole."""

    def failed(self, reason: str, *, stale: bool) -> None:
        """Learns that no whole answer comes; `stale` when a kept connection turned out to be closed."""


class UpstreamConnection(asyncio.Protocol):
    """One connection; carries one request at a time."""

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._used = False
        self._answered = False
        self._head_only = False
        self._reset()
        self.idle_since = 0.0

    def _reset(self) -> None:
        self._reason = b""
        self._headers: list[Header] = []
        self._in_head = True
        self._until_close = False

    # --- what the receiver asks for

    def send(self, request: bytes, receiver: Receiver, *, head_only: bool) -> None:
        """Sends a request whose answer goes to `receiver`; `head_only` where it has no body (HEAD)."""
        self._receiver, self._answered, self._head_only = receiver, False, head_only
        assert self._transport is not None
        self._transport.write(request)

    def pause(self) -> None:
        """Stops reading: the client is slower than the answer."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def abandon(self) -> None:
        """Closes it; nobody waits for the answer any more."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """Whether it is still open."""
        return self._transport is not None and not self._transport.is_closing()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no common class

    def data_received(self, data: bytes) -> None:
        """Parses what came, and sends it on in one piece."""
        receiver = self._receiver
        if receiver is None:
            self._pool.forget(self)  # an idle server has nothing to say
            self.abandon()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._receiver is not None:  # else the answer was whole, and what follows it is dropped
                self._fail(f"the server behind the router sent no valid answer ({str(error)[:100]})")
            self.abandon()
            return
        receiver.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the answer, well where it was to end with the connection."""
        del exc
        self._pool.forget(self)
        if self._receiver is None:
            return
        if self._until_close:
            self._end()
        elif self._answered:
            self._fail("the server behind the router closed the connection within its answer")
        else:
            self._fail("the server behind the router closed the connection", stale=self._used)

    def _fail(self, reason: str, *, stale: bool = False) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.failed(reason, stale=stale)

    def _end(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.ended()

    # --- httptools

    def on_status(self, status: bytes) -> None:
        """Takes a part of the reason phrase."""
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; trailers are not passed on."""
        if self._in_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Passes the head on, unless it is an interim one."""
        status = self._parser.get_status_code()
        if status < 200 or self._receiver is None:
            return
        self._in_head = False
        names = {name.lower(): value for name, value in self._headers}
        declared = names.get(b"content-length", b"")
        length = int(declared) if declared.isdigit() else None
        bodiless = self._head_only or status in (204, 304)
        self._until_close = length is None and b"transfer-encoding" not in names and not bodiless
        self._receiver.began(status, self._reason, self._headers, 0 if bodiless else length)
        if self._head_only:
            # The parser would wait for the body that a GET would have had: the connection cannot be used again.
            self._end()
            self.abandon()

    def on_body(self, body: bytes) -> None:
        """Passes a part of the body on."""
        if self._receiver is not None:
            self._receiver.continued(body)

    def on_message_complete(self) -> None:
        """Ends the answer and gives the connection back."""
        if self._in_head:  # an interim answer
            self._reset()
            return
        keep = self._parser.should_keep_alive() and not self._until_close
        self._reset()
        self._used = True
        self._end()
        if keep and self.usable:
            self._pool.give_back(self)
        elif self._transport is not None:
            self._transport.close()


class UpstreamPool:
    """Open connections to one address; the one used last is used next, and the others grow old and are closed.

    Args:
        host: Of the server.
        port: Of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: dict[UpstreamConnection, None] = {}
        self._closed = False

    def take_idle(self) -> UpstreamConnection | None:
        """Returns an open connection, or None where a new one is needed."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """Opens a connection.

        Raises:
            OSError: The server does not take it, or not within a second.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port)
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keeps a connection for the next request."""
        if self._closed:
            connection.abandon()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle[connection] = None

    def forget(self, connection: UpstreamConnection) -> None:
        """Does not hand a connection out again."""
        self._idle.pop(connection, None)

    def close_idle(self, now: float) -> None:
        """Closes what was not used for some seconds; to be called about once a second."""
        for connection in [kept for kept in self._idle if now - kept.idle_since > _IDLE_SECONDS]:
            self._idle.pop(connection, None)
            connection.abandon()

    def close(self) -> None:
        """Closes what is idle now, and whatever comes back later."""
        self._closed = True
        while self._idle:
            self._idle.popitem()[0].abandon()
