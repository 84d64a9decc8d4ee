"""Tells people how a run ended: a message to a Slack-compatible webhook, a mail, or both.

The addresses with their credentials come from the environment, where Kubernetes puts them from secrets:
SLIPWAY_WEBHOOK_URL, and SLIPWAY_SMTP_URL as smtp[s]://user:password@host:port. A message that cannot be delivered is
logged and changes nothing about the run: a finished training does not become a failed one for want of a chat.
"""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from slipway.components.progress import Progress

WEBHOOK_VARIABLE = "SLIPWAY_WEBHOOK_URL"
SMTP_VARIABLE = "SLIPWAY_SMTP_URL"
TIMEOUT_SECONDS = 20.0

FAILED_STATES = ("FAILED", "CANCELLED", "CANCELED", "ERROR")


class NotifyRequest(BaseModel):
    """Who is told, and how the run ended: `state` as Kubeflow Pipelines calls it, `error` its message if it has one.

    `run` names the run, `when` says which ends are told. `pauses` are seconds between attempts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    pipeline: str
    run: str
    state: str
    error: str = ""
    when: tuple[Literal["failed", "succeeded"], ...] = ("failed", "succeeded")
    webhook: bool = False
    sender: str | None = None
    to: tuple[str, ...] = ()
    pauses: tuple[float, ...] = (2.0, 10.0)


class NotifyResult(BaseModel):
    """How many messages were delivered and how many were not; `problems` says why not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


def run(request: NotifyRequest, progress: Progress) -> NotifyResult:
    """Delivers the messages; what fails is in the result and in the log, and nothing is raised."""
    ended = "failed" if request.state.upper() in FAILED_STATES else "succeeded"
    ways: list[tuple[str, Callable[[], None]]] = []
    if ended in request.when:
        text = message(request)
        if request.webhook:
            ways.append(("webhook", lambda: post_webhook(_variable(WEBHOOK_VARIABLE), text)))
        if request.to:
            ways.append(("mail", lambda: send_mail(_variable(SMTP_VARIABLE), request, text)))
    problems = []
    for name, deliver in ways:
        problem = _attempt(deliver, request.pauses)
        if problem is not None:
            problems.append(f"{name}: {problem}")
            progress.note(f"the {name} was not delivered: {problem}")
    return NotifyResult(
        problems=tuple(problems),
        metrics={"delivered": float(len(ways) - len(problems)), "not_delivered": float(len(problems))},
    )


def message(request: NotifyRequest) -> str:
    """Returns what people read: project, pipeline, how it ended, why, and the name of the run."""
    failed = request.state.upper() in FAILED_STATES
    lines = [f"{request.project}: {request.pipeline} {'failed' if failed else 'succeeded'} ({request.state})"]
    if request.error:
        lines.append(request.error.strip()[:1000])
    lines.append(f"run {request.run}")
    return "\n".join(lines)


def post_webhook(url: str, text: str) -> None:
    """Posts {"text": ...} as JSON.

    Raises:
        OSError: The server does not answer, or answers with an error.
        ValueError: The address is none.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{WEBHOOK_VARIABLE} is no http(s) address")
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - the scheme was checked
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
        return


def send_mail(url: str, request: NotifyRequest, text: str) -> None:
    """Sends one mail to all.

    Raises:
        OSError: The server does not answer, or refuses (SMTPException is an OSError).
        ValueError: The address is none.
    """
    server = urlsplit(url)
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise ValueError(f"{SMTP_VARIABLE} is not smtp[s]://user:password@host:port")
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = request.sender, ", ".join(request.to), text.splitlines()[0]
    mail.set_content(text)
    context = ssl.create_default_context()
    client: smtplib.SMTP
    if server.scheme == "smtps":
        client = smtplib.SMTP_SSL(server.hostname, server.port or 465, timeout=TIMEOUT_SECONDS, context=context)
    else:
        client = smtplib.SMTP(server.hostname, server.port or 25, timeout=TIMEOUT_SECONDS)
    with client:
        client.ehlo()
        if server.scheme == "smtp" and client.has_extn("starttls"):
            client.starttls(context=context)
            client.ehlo()
        if server.username:
            client.login(unquote(server.username), unquote(server.password or ""))
        client.send_message(mail)


def _attempt(deliver: Callable[[], None], pauses: tuple[float, ...]) -> str | None:
    for pause in (*pauses, None):
        try:
            deliver()
        except (OSError, ValueError) as error:
            # A webhook's address is a credential: it must not stand in a log.
            problem = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else f"{type(error).__name__}"
            if isinstance(error, ValueError):
                return str(error)
            if pause is None:
                return problem
            time.sleep(pause)
        else:
            return None
    return None


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(f"{name} is not set")
    return value
