"""Who may ask: only this host's names, never another site's page, and commands only with the token.

A page on loopback can be reached by every site that the browser has open. Three checks keep them out: the Host header
must be a name of this server (a rebound DNS name is not); what the browser says about the sender (Sec-Fetch-Site,
Origin) must be this page; and a command carries a token in a header that no form and no foreign script can send.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipway.serving.ui.access_token import is_token
from slipway.serving.ui.problems import Problem

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

TOKEN_SCHEME = "Bearer "  # noqa: S105 - the scheme of the header, not a secret

_HOST = re.compile(r"(?:\[(?P<address>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")

RESPONSE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; manifest-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}


class Guard:
    """Refuses before anything else sees the request, and adds the headers that bind the browser.

    Args:
        application: What answers.
        hosts: Names by which this server may be asked, without ports.
        token: What a command has to bring.
        refuse: Makes the answer of a refusal.
    """

    def __init__(
        self,
        application: ASGIApp,
        *,
        hosts: Iterable[str],
        token: str,
        refuse: Callable[[Request, Problem], Awaitable[Response]],
    ) -> None:
        self._application = application
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in RESPONSE_HEADERS.items():
                    headers[name] = value
            await send(message)

        problem = self._problem(scope["method"], Headers(scope=scope))
        if problem is None:
            await self._application(scope, receive, send_with_headers)
        else:
            response = await self._refuse(Request(scope, receive), problem)
            await response(scope, receive, send_with_headers)

    def _problem(self, method: str, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._hosts:
            return Problem(
                403,
                f"this page does not answer to the name {', '.join(hosts) or 'none'}",
                remedy=f"Use the address that `slipway ui` printed, or allow the name: slipway ui --allow-host "
                f"{_name(hosts[0]) if len(hosts) == 1 else 'NAME'}",
            )
        if method not in ("GET", "HEAD", "POST"):
            return Problem(405, f"{method} is not understood here")
        if method == "POST":
            return self._problem_of_command(hosts[0], headers)
        site = headers.get("sec-fetch-site", "none")
        navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site not in ("none", "same-origin") and not navigates:
            return _foreign()
        return None

    def _problem_of_command(self, host: str, headers: Headers) -> Problem | None:
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _foreign()
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _foreign()
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return Problem(415, "a command is JSON", remedy="Send it with content-type: application/json")
        given = headers.get("authorization", "")
        if not given.startswith(TOKEN_SCHEME):
            return Problem(
                401,
                "a command needs the token",
                remedy="Open the address that `slipway ui` printed, with the token in it, or enter the token.",
            )
        if not is_token(given.removeprefix(TOKEN_SCHEME), self._token):
            return Problem(
                401, "this is not the token", remedy="Take the one that `slipway ui` printed last, or that of its file."
            )
        return None


def _name(host: str) -> str:
    """Returns the name of a Host header without its port; "" where it is no host."""
    # By hand: a lenient parser takes `[::1].evil.example` for loopback.
    found = _HOST.fullmatch(host)
    return "" if found is None else (found["address"] or found["name"]).lower()


def _foreign() -> Problem:
    return Problem(
        403, "another site's page asked for this, not you", remedy="Open the address that `slipway ui` printed."
    )
