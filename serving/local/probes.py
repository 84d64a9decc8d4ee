"""Short questions to processes on loopback. Each has a deadline and answers rather than raises."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from slipway.contracts.metrics import IN_FLIGHT


def get(url: str, *, timeout: float = 2.0) -> tuple[int, bytes] | None:
    """Returns status and body of a GET, or None when nothing answers within `timeout` seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request("GET", urlunsplit(("", "", parts.path or "/", parts.query, "")))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers_ok(url: str, *, timeout: float = 2.0) -> bool:
    """Returns whether a GET is answered with status 200."""
    answer = get(url, timeout=timeout)
    return answer is not None and answer[0] == 200


def get_json(url: str, *, timeout: float = 2.0) -> Any | None:
    """Returns the JSON that a GET answers with status 200, else None."""
    answer = get(url, timeout=timeout)
    if answer is None or answer[0] != 200:
        return None
    try:
        return json.loads(answer[1])
    except ValueError:
        return None


def redis_answers(port: int, *, timeout: float = 1.0) -> bool:
    """Returns whether a Redis server answers PING on loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def requests_in_flight(metrics_url: str, *, timeout: float = 1.0) -> float | None:
    """Returns how many prediction requests a predictor is answering now, or None when it does not say."""
    answer = get(metrics_url, timeout=timeout)
    if answer is None or answer[0] != 200:
        return None
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in answer[1].decode(errors="replace").splitlines()
        if line.startswith((IN_FLIGHT.name + "{", IN_FLIGHT.name + " "))
    ]
    return sum(values) if values else None
