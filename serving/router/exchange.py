"""One request on its way to the server behind the router, and its answer on the way back."""

from __future__ import annotations

import asyncio
from typing import Protocol

from slipway.serving.router.messages import Header, Request, request_for_upstream, response_head
from slipway.serving.router.upstream import UpstreamConnection, UpstreamPool


class Client(Protocol):
    """Whoever sent the request."""

    @property
    def write_paused(self) -> bool:
        """Whether the client reads more slowly than it is written to."""

    @property
    def ends_soon(self) -> bool:
        """Whether its connection is to be closed after the answer, since the router stops."""

    def write(self, data: bytes) -> None:
        """Sends a part of the answer."""

    def answered(self, *, close: bool) -> None:
        """Learns that the answer is whole."""

    def answer_failure(self, status: int, reason: str, *, close: bool, head_only: bool) -> None:
        """Is told in JSON why there is no answer."""

    def abort(self) -> None:
        """Is cut off: a part of an answer must not look like a whole one."""


class Exchange:
    """Sends a request, passes the answer on as it comes, and tries once more where a kept connection was closed.

    A request that was sent into a closing connection was not answered by anybody; predictions change nothing and
    feedback counts once, so it may be sent again.
    """

    def __init__(self, client: Client, pool: UpstreamPool, request: Request, arm: bytes) -> None:
        self._client = client
        self._pool = pool
        self._request = request
        self._arm = arm
        self._upstream: UpstreamConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._out: list[bytes] = []
        self._began = False
        self._chunked = False
        self._close = not request.may_keep

    def start(self) -> None:
        """Sends the request, at once where a connection is open."""
        connection = self._pool.take_idle()
        if connection is None:
            self._open()
        else:
            self._send(connection)

    def pause(self) -> None:
        """Stops reading the answer."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """Reads the answer on."""
        if self._upstream is not None:
            self._upstream.resume()

    def abandon(self) -> None:
        """Gives up: nobody waits any more."""
        if self._opening is not None:
            self._opening.cancel()
        if self._upstream is not None:
            self._upstream.abandon()
            self._upstream = None

    def expire(self) -> None:
        """Ends what took too long."""
        self.abandon()
        if self._began:
            self._client.abort()
        else:
            self._answer_failure(504, "the server behind the router did not answer in time")

    def _open(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            connection = await self._pool.connect()
        except OSError as error:
            self.failed(f"the server behind the router cannot be reached ({_reason(error)})", stale=False)
            return
        self._opening = None
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self._upstream = connection
        connection.send(request_for_upstream(self._request, self._arm), self, head_only=self._request.method == b"HEAD")

    # --- the answer

    def began(self, status: int, reason: bytes, headers: list[Header], length: int | None) -> None:
        """Passes the head on, in chunks where the length is not known and the client can read them."""
        self._began = True
        self._chunked = length is None and self._request.version == "1.1"
        self._close = self._close or self._client.ends_soon or (length is None and not self._chunked)
        self._out.append(response_head(status, reason, headers, chunked=self._chunked, close=self._close))
        if self._client.write_paused:
            self.pause()

    def continued(self, data: bytes) -> None:
        """Passes a part of the body on."""
        if self._chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def flush(self) -> None:
        """Writes what came so far in one piece."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._client.write(data)

    def ended(self) -> None:
        """Ends the answer."""
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self.resume()  # the connection is another request's next
        self._upstream = None
        self.flush()
        self._client.answered(close=self._close)

    def failed(self, reason: str, *, stale: bool) -> None:
        """Tries a new connection where a kept one was closed; else tells the client."""
        self._upstream = None
        if self._began:
            self._client.abort()
        elif stale:
            self._open()
        else:
            self._answer_failure(502, reason)

    def _answer_failure(self, status: int, reason: str) -> None:
        self._client.answer_failure(status, reason, close=self._close, head_only=self._request.method == b"HEAD")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no connection within a second"
    return error.strerror.lower() if error.strerror else type(error).__name__
