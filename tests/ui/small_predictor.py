"""A small process with the predictor's command line whose answers pass the smoke test; a share of them can fail.

SMALL_FAILURES is the share of users' requests that is answered with 500.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import sys
import threading


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--http-port", "--metrics-port"):
        parser.add_argument(name, type=int)
    for name in ("--model", "--version"):
        parser.add_argument(name)
    options, _ = parser.parse_known_args()
    share = float(os.environ.get("SMALL_FAILURES", "0"))
    lock = threading.Lock()
    asked, failed = 0, 0

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            labels = f'model="{options.model}",version="{options.version}"'
            lines = [f"slipway_predictions_total{{{labels}}} {asked}", f"slipway_requests_in_flight{{{labels}}} 0"]
            self._answer(200, ("\n".join(lines) + "\n").encode())

        def do_POST(self) -> None:
            nonlocal asked, failed
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
            if "x-slipway-smoke-test" not in self.headers:
                with lock:
                    asked += 1
                    fails = failed < share * asked
                    failed += fails
                if fails:
                    self._answer(500, b"{}")
                    return
            users = [instance["user"] for instance in body.get("instances", [])]
            predictions = [{"user": user, "items": ["1", "2"]} for user in users]
            self._answer(200, json.dumps({"model_version": options.version, "predictions": predictions}).encode())

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        for port in (options.http_port, options.metrics_port)
    ]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
