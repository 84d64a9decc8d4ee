"""The router: gives each request its arm and sends it on."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

from slipway.serving.router.assignment import Assignment
from slipway.serving.router.assignment_file import AssignmentFile
from slipway.serving.router.client import ClientConnection
from slipway.serving.router.exchange import Exchange
from slipway.serving.router.messages import Request
from slipway.serving.router.metrics import RouterMetrics
from slipway.serving.router.upstream import UpstreamPool
from slipway.serving.router.users import JSON_LENGTH_HEADER, USER_HEADER, user_in_body, user_in_header

_REFRESH_SECONDS = 0.2
_SWEEP_SECONDS = 1.0
_BACKLOG = 2048

READY_PATH = b"/-/ready"
ASSIGNMENT_PATH = b"/-/assignment"


class Router:
    """Holds the assignment in force, the connections, and what is counted.

    Args:
        file: Where the assignment stands; must have been read once.
        metrics: What is counted.
        host: Of the server behind the router.
        port: Of the server behind the router.
        maximum_body: Greatest body of a request, in bytes.
        rng: Draws the arm of requests that name no user.
    """

    def __init__(
        self,
        file: AssignmentFile,
        metrics: RouterMetrics,
        *,
        host: str,
        port: int,
        maximum_body: int,
        rng: random.Random | None = None,
    ) -> None:
        assert file.current is not None
        self.assignment: Assignment = file.current
        self.maximum_body = maximum_body
        self.draining = False
        self._file = file
        self._metrics = metrics
        self._pool = UpstreamPool(host, port)
        self._rng = rng or random.Random()  # noqa: S311 - a share of traffic, not a secret
        self._connections: set[ClientConnection] = set()
        self._emptied = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []

    # --- what connections ask

    def exchange_for(self, client: ClientConnection, request: Request) -> Exchange:
        """Chooses the arm: by the user in the body, else by the header, else by a draw of its own."""
        by, user = "user", None
        if request.body:
            user = user_in_body(request.body, request.header(JSON_LENGTH_HEADER))
        if user is None:
            by, user = "header", user_in_header(request.header(USER_HEADER))
        assignment = self.assignment
        if user is None:
            by, bucket = "draw", self._rng.getrandbits(64)
        else:
            bucket = assignment.bucket(user)
        arm = assignment.arm_at(bucket)
        self._metrics.count(arm, by, bucket)
        return Exchange(client, self._pool, request, arm.encode())

    def answer_itself(self, request: Request) -> dict[str, object] | None:
        """Answers /-/ready, and /-/assignment with what is in force (never the salt)."""
        if request.target == READY_PATH:
            return {"ready": not self.draining}
        if request.target == ASSIGNMENT_PATH:
            assignment = self.assignment
            return {
                "layer": assignment.layer,
                "arms": dict(assignment.arms),
                "stable": assignment.stable,
                "problem": self._file.problem,
            }
        return None

    def count_failure(self, status: int) -> None:
        """Counts an answer that the router made itself."""
        self._metrics.count_failure(status)

    def joined(self, connection: ClientConnection) -> None:
        """Keeps a new connection."""
        self._connections.add(connection)

    def left(self, connection: ClientConnection) -> None:
        """Forgets a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    # --- life

    def use(self, assignment: Assignment) -> None:
        """Assigns by this from now on."""
        self.assignment = assignment
        self._metrics.use(assignment)

    async def serve(self, listener: socket.socket, stop: asyncio.Event, *, grace: float) -> None:
        """Serves until `stop` is set; then finishes what is in flight, for `grace` seconds at most."""
        loop = asyncio.get_running_loop()
        self.use(self.assignment)
        server = await loop.create_server(lambda: ClientConnection(self), sock=listener, backlog=_BACKLOG)
        self._every(_REFRESH_SECONDS, self._refresh)
        self._every(_SWEEP_SECONDS, self._sweep)
        try:
            await stop.wait()
        finally:
            self.draining = True
            server.close()
            await self._drain(grace)
            for timer in self._timers:
                timer.cancel()
            self._pool.close()

    async def _drain(self, grace: float) -> None:
        for connection in tuple(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace):
                while self._connections:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        slot = len(self._timers)

        def again() -> None:
            self._timers[slot] = loop.call_later(seconds, again)
            work()

        self._timers.append(loop.call_later(seconds, again))

    def _refresh(self) -> None:
        if self._file.refresh() and self._file.current is not None:
            self.use(self._file.current)
        self._metrics.show_file(valid=self._file.problem is None)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._connections):
            if connection.deadline < now:
                connection.expire()
        self._pool.close_idle(now)
