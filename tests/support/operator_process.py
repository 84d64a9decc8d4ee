"""The operator as a process outside the cluster, requests through the gateway, and a Rollout to look at."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cluster_namespace import Cluster
from ended_process import end

from slipway.serving.rollout.operator.kube import HTTP_ROUTES, INFERENCE_SERVICES, ROLLOUTS, Kube, connect

GATEWAY = {"name": "kserve-ingress-gateway", "namespace": "kserve"}
STEP = {"minimum_dwell": "2s", "minimum_samples": 100, "requires": "noHarm"}
ERRORS = {
    "name": "errors",
    "kind": "errors",
    "margin": {"odds_ratio": 1.5, "absolute": 0.05},
    "hard_limit": {"rate": 0.5},
}
POLICY = {
    "steps": [{"weight": 20, **STEP}, {"weight": 50, **STEP}, {"weight": 100, **STEP}],
    "guardrails": [ERRORS],
    "no_data": {"hold_for": "60s", "then": "rollback"},
    "readiness_timeout": "180s",
}


def gateway_address() -> tuple[str, int]:
    """Returns address and port of the gateway, or skips."""
    url = urlsplit(os.environ.get("SLIPWAY_TEST_GATEWAY_URL", ""))
    if not url.hostname:
        pytest.skip("SLIPWAY_TEST_GATEWAY_URL names no gateway (kserve/kserve-ingress-gateway)")
    return url.hostname, url.port or 80


def prometheus_address() -> str:
    """Returns the URL of the Prometheus that scrapes predictors, or skips."""
    url = os.environ.get("SLIPWAY_TEST_PROMETHEUS_URL")
    if not url:
        pytest.skip("SLIPWAY_TEST_PROMETHEUS_URL names no Prometheus that scrapes predictors")
    return url


class OperatorProcess:
    """One operator process with short pauses.

    Args:
        namespace: Where it works, and where its Lease is.
        folder: For its log.
        prometheus: URL, or None.
        flags: Further flags.
        environment: Further variables.
    """

    def __init__(
        self,
        namespace: str,
        folder: Path,
        *,
        prometheus: str | None = None,
        flags: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        name: str = "operator",
    ) -> None:
        self.log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "slipway.serving.rollout.operator", "--namespace", namespace),
            *("--lease-namespace", namespace, "--lease-duration", "3", "--interval", "0.5", "--resync", "5"),
            *("--lookback", "20", "--port", "0", *flags),
            *(() if prometheus is None else ("--prometheus-url", prometheus)),
        ]
        self._environment = os.environ | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> OperatorProcess:
        """Starts it; a new process each time."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        return self

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> int:
        """Asks it to stop and returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(40)

    def end(self) -> None:
        """Has it ended, whatever it does."""
        if self._process is not None:
            end(self._process)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None


@contextlib.contextmanager
def operator(namespace: str, folder: Path, **options: Any) -> Iterator[OperatorProcess]:
    """An operator that runs until the block ends; its log is printed where the block fails."""
    process = OperatorProcess(namespace, folder, **options).start()
    try:
        yield process
    except BaseException:
        print(process.log.read_text()[-6000:])
        raise
    finally:
        process.end()


class Rollouts:
    """Rollouts of one namespace, read and written as a person would."""

    def __init__(self, cluster: Cluster, kube: Kube | None = None) -> None:
        self.cluster = cluster
        self.namespace = cluster.namespace
        self.kube = kube or connect()

    def apply(self, document: Mapping[str, Any]) -> None:
        """Applies a Rollout as GitOps does."""
        self.cluster.kubectl(
            "apply",
            "--server-side",
            "--field-manager=gitops",
            "--force-conflicts",
            "-f",
            "-",
            text=json.dumps(document),
        )

    def status(self, name: str = "films") -> dict[str, Any]:
        """Returns the status of a Rollout; an empty one where it has none."""
        found = self.kube.get(ROLLOUTS, self.namespace, name)
        return {} if found is None else dict(found.get("status", {}))

    def wait_for_phase(self, *phases: str, seconds: float = 180.0, name: str = "films", run: int = 0) -> dict[str, Any]:
        """Waits until a Rollout is in one of the phases, in this run or a later one; returns its status."""

        def there() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status.get("phase") in phases and status.get("run", 0) >= run else None

        return wait_for(f"{name} in {phases}", there, seconds, lambda: str(self.brief(name)))

    def brief(self, name: str = "films") -> dict[str, Any]:
        """Returns what a failing test should show."""
        status = self.status(name)
        keys = ("phase", "step", "weight", "verdict", "reason", "alarm", "actualWeights", "run")
        return {key: status.get(key) for key in keys} | {
            "conditions": [f"{one['type']}={one['status']} {one['reason']}" for one in status.get("conditions", ())]
        }

    def command(self, kind: str, name: str = "films") -> None:
        """Gives a command by an annotation."""
        key = f"command.slipway.dev/{time.time_ns()}"
        self.cluster.kubectl("annotate", "rollout", name, f"{key}={kind}")

    def route_weights(self, name: str = "films") -> dict[str, int]:
        """Returns what the HTTPRoute says now, by Service."""
        route = self.kube.get(HTTP_ROUTES, self.namespace, name)
        rules = [] if route is None else route["spec"]["rules"]
        return {ref["name"]: ref.get("weight", 1) for ref in (rules[-1].get("backendRefs", ()) if rules else ())}

    def services(self) -> set[str]:
        """Returns the names of the InferenceServices that are there."""
        return {one["metadata"]["name"] for one in self.kube.list(INFERENCE_SERVICES, self.namespace)}


def rollout(
    version: str,
    uri: str,
    host: str,
    *,
    name: str = "films",
    predictor: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Returns a Rollout document."""
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": name, "version": version, "uri": uri},
            "predictor": dict(predictor or {}),
            "traffic": {"gateway": GATEWAY, "hostnames": [host]},
            "policy": dict(policy or POLICY),
            **spec,
        },
    }


def wait_for(
    what: str, question: Callable[[], Any], seconds: float = 60.0, explain: Callable[[], str] = lambda: ""
) -> Any:
    """Asks until the answer is true and returns it."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s: {explain()}"
        time.sleep(0.1)
    return answer


class Load:
    """Asks through the gateway on kept-alive connections; keeps what failed and which version answered.

    Args:
        address: Of the gateway.
        host: Name that the requests are for.
        connections: Threads that ask.
        pause: Seconds between an answer and the next request.
        headers: Further headers.
    """

    def __init__(
        self,
        address: tuple[str, int],
        host: str,
        *,
        connections: int = 4,
        pause: float = 0.02,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._address, self._host, self._pause = address, host, pause
        self._headers = {"Content-Type": "application/json", "Host": host, **(headers or {})}
        self.failed: list[str] = []
        self.answers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(connections)]

    @property
    def total(self) -> int:
        """Requests that were answered by a version, or failed."""
        return sum(self.answers.values()) + len(self.failed)

    def start(self) -> None:
        """Begins to ask."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stops asking."""
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        body = json.dumps({"instances": [{"user": "1"}]})
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        while not self._ending.wait(self._pause):
            problem, version = None, ""
            try:
                connection.request("POST", "/v1/models/films:predict", body, self._headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    version = str(json.loads(content)["model_version"])
                else:
                    problem = f"{answer.status} {content[:100]!r}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
                connection.close()
                connection = http.client.HTTPConnection(*self._address, timeout=20)
            with self._lock:
                if problem is None:
                    self.answers[version] = self.answers.get(version, 0) + 1
                else:
                    self.failed.append(problem)
        connection.close()


@contextlib.contextmanager
def load(address: tuple[str, int], host: str, **options: Any) -> Iterator[Load]:
    """Requests for as long as the block lasts."""
    asking = Load(address, host, **options)
    asking.start()
    try:
        yield asking
    finally:
        asking.end()
