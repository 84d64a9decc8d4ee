"""Runs an Experiment on a cluster's Katib: made or found, followed to its end, and taken away when it is given up.

An Experiment has the name of its sweep, so whoever starts the same sweep again finds it and goes on following. It stays
when its follower is killed, and when it has ended: its result can then be had once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway.contracts.errors import EnvironmentProblemError, LockHeldError, ServiceError, SlipwayError
from slipway.pipelines.runners.interrupt import termination_as_interrupt
from slipway.pipelines.sweeps.experiment import PROJECT_LABEL
from slipway.pipelines.sweeps.katib_records import conclude, holds, trial_records
from slipway.pipelines.sweeps.records import SweepReport, TrialRecord
from slipway.pipelines.sweeps.trial_template import SWEEP_LABEL
from slipway.serving.rollout.operator.kube import NAMESPACES, PODS, ConflictError, Kube, Resource

EXPERIMENTS = Resource("kubeflow.org", "v1beta1", "experiments", "Experiment")
TRIALS = Resource("kubeflow.org", "v1beta1", "trials", "Trial")
SUGGESTIONS = Resource("kubeflow.org", "v1beta1", "suggestions", "Suggestion")
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")

EXPERIMENT_LABEL = "katib.kubeflow.org/experiment"
COLLECTOR_LABEL = "katib.kubeflow.org/metrics-collector-injection"
POLL_SECONDS = 2.0
SILENCE_SECONDS = 300.0
"""How long the API server may be away before the follower gives up; the Experiment goes on."""
REMOVAL_SECONDS = 180.0

_COUNTS = ("parallelTrialCount", "maxTrialCount", "maxFailedTrialCount")
_FAILED = ("Failed", "MetricsUnavailable")

Observe = Callable[[str, TrialRecord], None]
Note = Callable[[str], None]


class KatibSweep:
    """One Experiment on a cluster.

    Args:
        kube: The cluster.
        document: The Experiment, as plain data.
        project: Name of the project.
        folder: Where the report says that its files are.
        observe: Told of each trial that starts or ends.
        note: Told what a person should know while it goes on.
    """

    def __init__(
        self, kube: Kube, document: Mapping[str, Any], project: str, folder: Path, observe: Observe, note: Note
    ) -> None:
        self._kube = kube
        self._document = document
        self._observe = observe
        self._note = note
        self._told: set[str] = set()
        self._seen: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._project = project
        self.namespace: str = document["metadata"]["namespace"]
        self.name: str = document["metadata"]["name"]
        spec = document["spec"]
        self.report = SweepReport(
            project=project,
            name=self.name,
            directory=folder,
            metric=spec["objective"]["objectiveMetricName"],
            maximize=spec["objective"]["type"] == "maximize",
            goal=spec["objective"].get("goal"),
            algorithm=spec["algorithm"]["algorithmName"],
            parameters=tuple(row["name"] for row in spec["parameters"]),
            max_trials=spec["maxTrialCount"],
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def run(self, *, restart: bool = False) -> SweepReport:
        """Makes the Experiment or finds it, follows it to its end, and returns what became of it.

        Args:
            restart: Take away an Experiment of this name first.

        Raises:
            EnvironmentProblemError: The cluster has no Katib, or the namespace no metrics of it.
            LockHeldError: Something that is not of this project has the name.
            RefusedByClusterError: Katib refused the Experiment.
            ServiceError: The API server was away for long; the Experiment goes on.
            KeyboardInterrupt: This process was interrupted; the Experiment has been taken away.
        """
        self._check_cluster()
        with termination_as_interrupt():
            try:
                if restart:
                    self.cancel()
                self._launch()
                return self._follow()
            except KeyboardInterrupt:
                self._note(f"taking Experiment {self.name} away")
                self.cancel()
                raise

    def cancel(self) -> bool:
        """Takes the Experiment away with its trials and pods, waits until they are gone; False if there was none.

        Raises:
            LockHeldError: What has the name is not of this project.
            ServiceError: The API server does not answer, or something stays.
        """
        found = self._find()
        if found is not None:
            self._kube.delete(EXPERIMENTS, self.namespace, self.name, uid=found["metadata"]["uid"])
        deadline = time.monotonic() + REMOVAL_SECONDS
        while left := self.left_over():
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"of Experiment {self.name} there is still: {', '.join(left[:5])}",
                    where=f"namespace {self.namespace}",
                    remedy="Its node may be away; look with: kubectl describe.",
                )
            time.sleep(0.5)
        return found is not None

    def left_over(self) -> list[str]:
        """Returns what there is of the Experiment, as kind/name."""
        rows = []
        if self._kube.get(EXPERIMENTS, self.namespace, self.name) is not None:
            rows.append(f"experiment/{self.name}")
        selectors = {
            TRIALS: f"{EXPERIMENT_LABEL}={self.name}",
            SUGGESTIONS: f"{EXPERIMENT_LABEL}={self.name}",
            DEPLOYMENTS: f"{EXPERIMENT_LABEL}={self.name}",
            JOBS: f"{EXPERIMENT_LABEL}={self.name}",
        }
        for resource, selector in selectors.items():
            rows += self._names(resource, selector)
        for selector in (f"{SWEEP_LABEL}={self.name}", f"{EXPERIMENT_LABEL}={self.name}"):
            rows += self._names(PODS, selector)
        return list(dict.fromkeys(rows))

    def _names(self, resource: Resource, selector: str) -> list[str]:
        found = self._kube.list(resource, self.namespace, selector)
        return [f"{resource.kind.lower()}/{row['metadata']['name']}" for row in found]

    def _check_cluster(self) -> None:
        if not self._kube.knows(EXPERIMENTS):
            raise EnvironmentProblemError(
                "the cluster has no Katib",
                where=str(self._kube.configuration.host),
                remedy="Install Katib 0.19, or leave --cluster out: Optuna runs the same sweep here.",
            )
        try:
            namespace = self._kube.get(NAMESPACES, None, self.namespace)
        except ServiceError:
            raise
        except SlipwayError:
            # Who may make Experiments need not be allowed to read namespaces.
            return
        if namespace is None:
            raise EnvironmentProblemError(
                "there is no such namespace", where=f"kubernetes.namespace: {self.namespace}", remedy="Make it first."
            )
        if (namespace["metadata"].get("labels") or {}).get(COLLECTOR_LABEL) != "enabled":
            raise EnvironmentProblemError(
                "Katib collects no metrics in this namespace",
                where=f"namespace {self.namespace}",
                remedy=f"kubectl label namespace {self.namespace} {COLLECTOR_LABEL}=enabled",
            )

    def _find(self) -> dict[str, Any] | None:
        found = self._kube.get(EXPERIMENTS, self.namespace, self.name)
        if found is not None and (found["metadata"].get("labels") or {}).get(PROJECT_LABEL) != self._project:
            raise LockHeldError(
                f"Experiment {self.name} is not of project {self._project}",
                where=f"namespace {self.namespace}",
                remedy="Use another namespace, or remove that Experiment.",
            )
        return found

    def _launch(self) -> None:
        deadline = time.monotonic() + REMOVAL_SECONDS
        while time.monotonic() < deadline:
            found = self._find()
            if found is not None and found["metadata"].get("deletionTimestamp"):
                time.sleep(0.5)
                continue
            if found is not None:
                self._adopt(found)
                return
            try:
                self._kube.create(EXPERIMENTS, dict(self._document))
            except ConflictError:
                # Somebody made it meanwhile: then it is found.
                continue
            self._note(f"Experiment {self.name} runs in namespace {self.namespace}")
            return
        raise ServiceError(
            f"Experiment {self.name} is being removed and does not go", where=f"namespace {self.namespace}"
        )

    def _adopt(self, found: Mapping[str, Any]) -> None:
        wanted = {name: self._document["spec"][name] for name in _COUNTS}
        now = {name: found["spec"].get(name) for name in _COUNTS}
        if holds(found, "Succeeded") or holds(found, "Failed"):
            self._note(f"Experiment {self.name} had ended already")
            if now["maxTrialCount"] != wanted["maxTrialCount"]:
                self.report.warnings.append(
                    f"it had ended with at most {now['maxTrialCount']} trials, and Katib does not go on with it: "
                    "slipway tune --cluster --restart begins anew"
                )
            return
        self._note(f"Experiment {self.name} runs already: following it")
        if now != wanted:
            self._kube.merge(EXPERIMENTS, self.namespace, self.name, {"spec": wanted})

    def _follow(self) -> SweepReport:
        silent_since: float | None = None
        while True:
            try:
                experiment = self._find()
                trials = self._kube.list(TRIALS, self.namespace, f"{EXPERIMENT_LABEL}={self.name}")
                if experiment is None:
                    raise EnvironmentProblemError(
                        "somebody removed the Experiment",
                        where=f"{self.namespace}/{self.name}",
                        remedy="Start it again.",
                    )
                self._look_at(experiment, trials)
            except ServiceError as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > SILENCE_SECONDS:
                    error.remedy = "The Experiment goes on; the same command follows it again."
                    raise
            else:
                silent_since = None
                if conclude(self.report, experiment):
                    return self.report
            time.sleep(POLL_SECONDS)

    def _look_at(self, experiment: Mapping[str, Any], trials: list[dict[str, Any]]) -> None:
        self.report.started = experiment["metadata"]["creationTimestamp"]
        records = trial_records(self._document, trials)
        for record in records:
            before = self._seen.get(record.name)
            if before is None:
                self._observe("started", record)
            if record.status in _FAILED:
                if record.name not in self._reasons:
                    self._reasons[record.name] = self._reason(record)
                record.error = self._reasons[record.name]
            if record.status != "Running" and before in (None, "Running"):
                self._observe("ended", record)
            self._seen[record.name] = record.status
        self.report.trials = records
        if any(record.status == "Running" for record in records) or not records:
            self._tell_what_waits()

    def _reason(self, record: TrialRecord) -> str:
        """Returns why a trial failed, as its own pod tells it."""
        if record.status == "MetricsUnavailable":
            return f"it ended well and printed no {self.report.metric}"
        container = self._document["spec"]["trialTemplate"]["primaryContainerName"]
        for selector in (f"job-name={record.name}", f"jobset.sigs.k8s.io/jobset-name={record.name}"):
            for pod in self._kube.list(PODS, self.namespace, selector):
                for row in pod.get("status", {}).get("containerStatuses") or ():
                    ended = (row.get("state") or {}).get("terminated")
                    if row["name"] == container and ended is not None and ended["exitCode"] != 0:
                        text = str(ended.get("message") or "").strip()
                        return text or f"its process ended with code {ended['exitCode']} ({ended.get('reason', '')})"
        return "its pod is gone, and with it the reason (a time limit, or a lost node)"

    def _tell_what_waits(self) -> None:
        """Says once of each reason why pods do not start: an image that cannot be had, no node that fits."""
        for pod in self._kube.list(PODS, self.namespace, f"{SWEEP_LABEL}={self.name}"):
            status = pod.get("status", {})
            for row in status.get("conditions") or ():
                if row["type"] == "PodScheduled" and row["status"] == "False":
                    self._tell(f"a trial waits for a node: {row.get('message', row.get('reason', ''))}")
            for row in status.get("containerStatuses") or ():
                waiting = (row.get("state") or {}).get("waiting") or {}
                if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                    self._tell(f"a trial waits: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": "))

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._note(text)
