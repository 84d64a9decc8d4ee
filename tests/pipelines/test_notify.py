"""Messages about a run's end, to a real web server and a real mail server, and to none."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from slipway.components.notify.step import SMTP_VARIABLE, WEBHOOK_VARIABLE, NotifyRequest, run
from slipway.components.progress import Progress


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])  # type: ignore[index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def webhook(codes: list[int]) -> Iterator[tuple[str, list[Any]]]:
    """Serves a webhook that answers with these codes, then with 200; gives its address and the messages it accepted."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = codes.pop(0) if codes else 200
            if code == 200:
                received.append(content)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/services/T0/secret", received


@contextmanager
def mail_server() -> Iterator[tuple[str, list[str]]]:
    """Serves SMTP as far as a client without TLS needs it; gives its address and the mails it accepted."""
    received: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            for line in self.rfile:
                verb = line.split()[0].upper() if line.split() else b""
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = []
                    while (part := self.rfile.readline()) != b".\r\n":
                        lines.append(part.decode())
                    received.append("".join(lines))
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    with served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"smtp://127.0.0.1:{port}", received


def request(**fields: Any) -> NotifyRequest:
    content = {"project": "films", "pipeline": "retraining", "run": "run-films-1", "state": "FAILED", "pauses": (0.01,)}
    return NotifyRequest.model_validate(content | fields)


def test_the_webhook_gets_one_message_that_says_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook([]) as (address, received):
        monkeypatch.setenv(WEBHOOK_VARIABLE, address)
        result = run(request(webhook=True, error="register: a gate was not met"), Progress())
    assert result.metrics == {"delivered": 1.0, "not_delivered": 0.0}
    (message,) = received
    assert message == {
        "text": "films: retraining failed (FAILED)\nregister: a gate was not met\nrun run-films-1",
    }


def test_mail_goes_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as (address, received):
        monkeypatch.setenv(SMTP_VARIABLE, address)
        result = run(request(state="SUCCEEDED", sender="ml@a.example", to=("x@a.example", "y@a.example")), Progress())
    assert result.metrics["delivered"] == 1.0
    (mail,) = received
    assert "To: x@a.example, y@a.example" in mail
    assert "Subject: films: retraining succeeded (SUCCEEDED)" in mail


def test_only_the_ends_that_were_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook([]) as (address, received):
        monkeypatch.setenv(WEBHOOK_VARIABLE, address)
        run(request(webhook=True, state="SUCCEEDED", when=("failed",)), Progress())
        run(request(webhook=True, state="FAILED", when=("failed",)), Progress())
    assert len(received) == 1


def test_a_server_that_stumbles_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook([503]) as (address, received):
        monkeypatch.setenv(WEBHOOK_VARIABLE, address)
        assert run(request(webhook=True), Progress()).problems == ()
    assert len(received) == 1


def test_what_cannot_be_delivered_is_told_without_the_address_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with webhook([404, 404]) as (address, received):
        monkeypatch.setenv(WEBHOOK_VARIABLE, address)
        monkeypatch.setenv(SMTP_VARIABLE, "smtp://127.0.0.1:1")
        result = run(request(webhook=True, sender="ml@a.example", to=("x@a.example",)), Progress())
    assert received == []
    assert result.problems == ("webhook: HTTP 404", "mail: ConnectionRefusedError")
    assert "secret" not in str(result)
    monkeypatch.delenv(WEBHOOK_VARIABLE)
    assert run(request(webhook=True), Progress()).problems == (f"webhook: {WEBHOOK_VARIABLE} is not set",)
