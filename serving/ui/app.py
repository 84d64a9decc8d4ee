"""The page's server: two pages, what they show as JSON and as server-sent events, and commands."""

from __future__ import annotations

import getpass
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from slipway.contracts.errors import SlipwayError
from slipway.contracts.rollout import CommandKind
from slipway.serving.asgi import Refusal, read_body
from slipway.serving.ui.problems import Problem
from slipway.serving.ui.security import LOOPBACK_NAMES, Guard
from slipway.serving.ui.series import series_of
from slipway.serving.ui.source import RolloutSource
from slipway.serving.ui.stream import Streams, version_of

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_LARGEST_COMMAND = 4096
_LARGEST_PAGE = 100


class Page:
    """The application around one source of rollouts.

    Args:
        source: Where rollouts come from.
        token: What a command has to bring.
        hosts: Names besides those of loopback by which the server may be asked.
    """

    def __init__(self, source: RolloutSource, *, token: str, hosts: Iterable[str] = ()) -> None:
        self._source = source
        self.streams = Streams(source)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        routes = Starlette(
            routes=[
                Route("/", self._list_page),
                Route("/rollouts/{rollout}", self._rollout_page),
                Route("/api/rollouts", self._list),
                Route("/api/stream", self._list_stream),
                Route("/api/rollouts/{rollout}", self._rollout),
                Route("/api/rollouts/{rollout}/decisions", self._decisions),
                Route("/api/rollouts/{rollout}/stream", self._rollout_stream),
                Route("/api/rollouts/{rollout}/commands", self._command, methods=["POST"]),
                Mount("/static", StaticFiles(directory=_HERE / "static")),
            ],
            exception_handlers={
                Problem: self._on_problem,
                SlipwayError: self._on_error,
                HTTPException: self._on_http_error,
                Exception: self._on_unexpected,
            },
        )
        # Around everything, so that no answer goes out without its headers, not even that of an unexpected error.
        self.application: ASGIApp = Guard(routes, hosts={*LOOPBACK_NAMES, *hosts}, token=token, refuse=self._refuse)

    # Pages

    async def _list_page(self, request: Request) -> Response:  # noqa: ARG002
        return self._html("list.html", title=f"Rollouts of {self._source.name}")

    async def _rollout_page(self, request: Request) -> Response:
        rollout = request.path_params["rollout"]
        await run_in_threadpool(self._source.read, rollout)
        return self._html("rollout.html", title=rollout, rollout=rollout)

    # Data

    async def _list(self, request: Request) -> Response:
        summaries = await run_in_threadpool(self._source.list)
        phase, search = request.query_params.get("phase", ""), request.query_params.get("search", "").lower()
        found = [
            summary
            for summary in summaries
            if _in_phase(summary.phase, phase, terminal=summary.terminal)
            and search in " ".join([summary.rollout, summary.reason, *summary.candidates, summary.stable or ""]).lower()
        ]
        offset = _number(request, "offset", default=0, largest=1_000_000)
        limit = _number(request, "limit", default=25, largest=_LARGEST_PAGE)
        return JSONResponse(
            {
                "rollouts": [summary.to_dict() for summary in found[offset : offset + limit]],
                "found": len(found),
                "all": len(summaries),
                "phases": sorted({summary.phase for summary in summaries}),
                "version": version_of(summaries),
            }
        )

    async def _rollout(self, request: Request) -> Response:
        rollout = request.path_params["rollout"]
        detail = await run_in_threadpool(self._source.read, rollout)
        decisions = await run_in_threadpool(self._source.history, rollout)
        return JSONResponse({"detail": detail, "series": series_of(decisions), "decisions": len(decisions)})

    async def _decisions(self, request: Request) -> Response:
        rollout = request.path_params["rollout"]
        decisions = await run_in_threadpool(self._source.history, rollout)
        before = _number(request, "before", default=len(decisions) + 1, largest=1_000_000_000)
        limit = _number(request, "limit", default=20, largest=_LARGEST_PAGE)
        every = request.query_params.get("kind", "changes") == "all"
        older = [decision for decision in decisions if decision.sequence < before and (every or decision.events)]
        page = older[-limit:]
        # A decision without a look of its own rests on an earlier one, which the page shows with it.
        looks = {decision.evidence for decision in page if decision.evidence != decision.sequence} - {None}
        return JSONResponse(
            {
                "decisions": [decision.to_dict() for decision in reversed(page)],
                "evidence": {str(number): decisions[number - 1].to_dict() for number in looks if number is not None},
                "older": len(older) - len(page),
            }
        )

    async def _list_stream(self, request: Request) -> Response:
        version = request.query_params.get("version", "")
        return StreamingResponse(self.streams.of_list(version), media_type="text/event-stream")

    async def _rollout_stream(self, request: Request) -> Response:
        rollout = request.path_params["rollout"]
        await run_in_threadpool(self._source.read, rollout)
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdigit() else _number(request, "after", default=0, largest=1_000_000_000)
        return StreamingResponse(self.streams.of_rollout(rollout, after), media_type="text/event-stream")

    # Commands

    async def _command(self, request: Request) -> Response:
        rollout = request.path_params["rollout"]
        if self._source.read_only:
            raise Problem(
                403, "this page is read-only", rollout, "Start it without --read-only, or use slipway rollout"
            )
        try:
            content = json.loads(await read_body(request.scope, request.receive, limit=_LARGEST_COMMAND))
        except Refusal as refusal:
            raise Problem(refusal.status, refusal.reason) from refusal
        except ValueError as error:
            raise Problem(400, "the command is not JSON", remedy='Send {"kind": "abort"}') from error
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind not in get_args(CommandKind):
            known = ", ".join(get_args(CommandKind))
            raise Problem(400, f"{kind!r} is no command", remedy=f"Give one of: {known}")
        by = f"{_user()} (page)"
        follow = await run_in_threadpool(self._source.command, rollout, cast(CommandKind, kind), by)
        log.info("%s of %s was given by %s", kind, rollout, by)
        return JSONResponse({"rollout": follow, "kind": kind}, status_code=202)

    # What went wrong

    async def _refuse(self, request: Request, problem: Problem) -> Response:
        log.warning("refused %s %s: %s", request.method, request.url.path, problem.what)
        return self._answer(request, problem)

    async def _on_problem(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return self._answer(request, error)

    async def _on_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, SlipwayError)
        return self._answer(request, Problem.of(error))

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = "there is no such page" if error.status_code == 404 else error.detail.lower()
        return self._answer(request, Problem(error.status_code, what, request.url.path, "Go to the list of rollouts."))

    async def _on_unexpected(self, request: Request, error: Exception) -> Response:
        remedy = "This is a fault of slipway; the terminal of `slipway ui` shows where it happened."
        return self._answer(request, Problem(500, f"unexpected {type(error).__name__}", request.url.path, remedy))

    def _answer(self, request: Request, problem: Problem) -> Response:
        if request.url.path.startswith(("/api/", "/static/")):
            return JSONResponse(problem.to_dict(), status_code=problem.status)
        return self._html("problem.html", status=problem.status, title=f"{problem.status}", problem=problem)

    def _html(self, template: str, status: int = 200, **values: Any) -> Response:
        page = self._templates.get_template(template).render(project=self._source.name, **values)
        return HTMLResponse(page, status_code=status)


def _in_phase(phase: str, wanted: str, *, terminal: bool) -> bool:
    return wanted in ("", phase) or (wanted == "under-way" and not terminal)


def _number(request: Request, name: str, *, default: int, largest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= largest):
        raise Problem(400, f"{name}={text} is not a number up to {largest:,}")
    return int(text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
