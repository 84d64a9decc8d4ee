"""A small HTTP process with the predictor's command line, for tests of the supervisor that need no model.

Behaviour comes from the environment: STANDIN_DELAY (seconds an answer takes), STANDIN_EXIT_AFTER (seconds until it
exits with status 7), STANDIN_READY_AFTER (seconds until it is ready), STANDIN_CODE (status of every answer),
STANDIN_FAULTY (status 500 for everything but the smoke test of a rollout).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time


class Predictor:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.started = time.monotonic()
        self.stopping = False
        self.in_flight = 0
        self.answered = 0
        self.delay = float(os.environ.get("STANDIN_DELAY", "0"))
        self.ready_after = float(os.environ.get("STANDIN_READY_AFTER", "0"))
        self.code = int(os.environ.get("STANDIN_CODE", "200"))
        self.faulty = "STANDIN_FAULTY" in os.environ

    async def answer(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if path == "/v2/health/ready":
            ready = not self.stopping and time.monotonic() - self.started >= self.ready_after
            return (200 if ready else 503), b"{}"
        if path == "/metrics":
            labels = f'model="{self.arguments.model}",version="{self.arguments.version}"'
            text = f"slipway_requests_in_flight{{{labels}}} {self.in_flight}\n"
            text += f'slipway_requests_total{{{labels},code="{self.code}"}} {self.answered}\n'
            return 200, text.encode()
        self.in_flight += 1
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            answer = {"version": self.arguments.version, "pid": os.getpid(), "path": path, "length": len(body)}
            answer["headers"] = sorted(headers)
            answer |= {"model_version": self.arguments.version, "predictions": predictions(body)}
            self.answered += 1
            code = 500 if self.faulty and "x-slipway-smoke-test" not in headers else self.code
            return code, json.dumps(answer).encode()
        finally:
            self.in_flight -= 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                _, path, _ = first.split(" ", 2)
                code, content = await self.answer(path, body, headers)
                close = "Connection: close\r\n" if self.stopping else ""
                writer.write(f"HTTP/1.1 {code} -\r\nContent-Length: {len(content)}\r\n{close}\r\n".encode() + content)
                await writer.drain()
                if self.stopping:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def predictions(body: bytes) -> list[dict[str, list[str]]]:
    """Returns an answer for each user that is asked about, as the smoke test of a rollout wants to see it."""
    try:
        return [{"items": ["1"]} for _ in json.loads(body)["instances"]]
    except (ValueError, KeyError, TypeError):
        return []


async def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("bundle", "model", "version", "redis", "feature-project", "collector", "key-file", "predictor", "arm"):
        parser.add_argument(f"--{name}")
    for name in ("http-port", "grpc-port", "metrics-port", "replica", "maximum-body", "k"):
        parser.add_argument(f"--{name}", type=int)
    arguments, _ = parser.parse_known_args()
    predictor = Predictor(arguments)
    servers = [
        await asyncio.start_server(predictor.serve, "127.0.0.1", port)
        for port in (arguments.http_port, arguments.metrics_port)
    ]
    print(f"stand-in {arguments.model} {arguments.version} on {arguments.http_port}", flush=True)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    exit_after = os.environ.get("STANDIN_EXIT_AFTER")
    if exit_after is not None:
        loop.call_later(float(exit_after), os._exit, 7)
    await stopped.wait()
    predictor.stopping = True
    while predictor.in_flight:
        await asyncio.sleep(0.01)
    for server in servers:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
