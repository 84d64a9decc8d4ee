"""A thin client of the API server: plain dictionaries, server-side apply under a field manager of our own.

Kubernetes' generated client does connections, certificates, tokens and their renewal; objects stay the documents that
they are, as most of ours are custom resources.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.contracts.errors import EnvironmentProblemError, ServiceError, SlipwayError, require_extra

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

FIELD_MANAGER = "slipway-operator"
Document = dict[str, Any]


class ConflictError(SlipwayError):
    """The object was changed by someone else since it was read."""


class RefusedByClusterError(SlipwayError):
    """The API server refused a request: it is invalid or not allowed, and repeating it changes nothing."""


@dataclass(frozen=True)
class Resource:
    """A kind of object: API group ("" for core), version and plural."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As objects write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Returns the path of an object, or of the collection without a name."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


ROLLOUTS = Resource("slipway.dev", "v1alpha1", "rollouts", "Rollout")
INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
SERVING_RUNTIMES = Resource("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime")
CLUSTER_SERVING_RUNTIMES = Resource("serving.kserve.io", "v1alpha1", "clusterservingruntimes", "ClusterServingRuntime")
HTTP_ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
GATEWAY_CLASSES = Resource("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


class Kube:
    """Calls to one API server. Safe to be used by several threads.

    Args:
        configuration: Where the server is and who calls.
        timeout: Seconds that a call may take.

    `may_write` is asked before each change: an operator that has lost its Lease must not carry out what it decided.
    """

    def __init__(self, configuration: Configuration, *, timeout: float = 10.0) -> None:
        from kubernetes.client import ApiClient

        configuration.retries = False
        self.configuration = configuration
        self._client: ApiClient = ApiClient(configuration)
        self._timeout = timeout
        self.calls = 0
        self.may_write: Callable[[], bool] = lambda: True

    def get(self, resource: Resource, namespace: str | None, name: str) -> Document | None:
        """Returns an object, or None where there is none."""
        return self._call("GET", resource.path(namespace, name), absent_is_none=True)

    def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Document]:
        """Returns the objects with these labels; none where the kind is not known."""
        query = [("labelSelector", selector)] if selector else []
        found = self._call("GET", resource.path(namespace), query=query, absent_is_none=True)
        return [] if found is None else list(found["items"])

    def knows(self, resource: Resource) -> bool:
        """Returns whether the cluster serves this kind."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        found = self._call("GET", root, absent_is_none=True)
        return found is not None and any(one["name"] == resource.plural for one in found["resources"])

    def apply(self, resource: Resource, document: Document, *, subresource: str = "", force: bool = True) -> Document:
        """Has the server hold exactly these of our fields (server-side apply); returns the object.

        Args:
            resource: Its kind.
            document: What we want to own. With a resourceVersion, only an unchanged object is changed.
            subresource: `status`, or nothing.
            force: Take fields over that others hold.

        Raises:
            ConflictError: It was changed since it was read.
        """
        meta = document["metadata"]
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        path = resource.path(meta.get("namespace"), meta["name"], subresource)
        query = [("fieldManager", FIELD_MANAGER), ("force", "true" if force else "false")]
        return self._expect("PATCH", path, query=query, body=body, content="application/apply-patch+yaml")

    def merge(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Document | None:
        """Merges a patch into an object; returns it, or None where it is gone."""
        query = [("fieldManager", FIELD_MANAGER)]
        content = "application/merge-patch+json"
        path = resource.path(namespace, name)
        return self._call("PATCH", path, query=query, body=patch, content=content, absent_is_none=True)

    def create(self, resource: Resource, document: Document) -> Document:
        """Makes an object.

        Raises:
            ConflictError: There is one already.
        """
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        query = [("fieldManager", FIELD_MANAGER)]
        return self._expect("POST", resource.path(document["metadata"].get("namespace")), query=query, body=body)

    def replace(self, resource: Resource, document: Document) -> Document:
        """Replaces an object as it was read.

        Raises:
            ConflictError: It was changed since.
        """
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        meta = document["metadata"]
        return self._expect("PUT", resource.path(meta.get("namespace"), meta["name"]), body=body)

    def delete(self, resource: Resource, namespace: str, name: str, *, uid: str | None = None) -> bool:
        """Asks for an object's deletion; returns False where it is gone already (or another bears its name)."""
        body: Document = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            return self._call("DELETE", resource.path(namespace, name), body=body, absent_is_none=True) is not None
        except ConflictError:
            return False

    def _expect(self, method: str, path: str, **options: Any) -> Document:
        found = self._call(method, path, **options)
        assert found is not None
        return found

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content: str = "application/json",
        absent_is_none: bool = False,
    ) -> Document | None:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        self.calls += 1
        if method != "GET" and not self.may_write():
            raise ConflictError("another operator leads now", where=f"{method} {path}")
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=list(query),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=self._timeout,
            )
            return dict(json.loads(answer.data))
        except ApiException as error:
            if error.status == 404 and absent_is_none:
                return None
            raise _translated(error, f"{method} {path}") from error
        except (HTTPError, OSError, ValueError) as error:
            raise ServiceError(
                f"the API server does not answer ({type(error).__name__})", where=str(self.configuration.host)
            ) from error


def _translated(error: Any, where: str) -> SlipwayError:
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        message = str(error.reason)
    match error.status:
        case 409:
            return ConflictError(message, where=where)
        case 400 | 401 | 403 | 404 | 405 | 415 | 422:
            return RefusedByClusterError(f"the cluster refused it: {message}", where=where)
        case _:
            return ServiceError(f"the API server answered {error.status}: {message}", where=where)


def connect(*, kubeconfig: str | None = None, context: str | None = None) -> Kube:
    """Returns a client of the cluster that this process runs in, or that a kubeconfig names.

    Args:
        kubeconfig: File; by default KUBECONFIG or ~/.kube/config.
        context: A context of it; by default its current one. Inside a pod, without either, the pod's own account.

    Raises:
        EnvironmentProblemError: There is no usable configuration, or the extra is not installed.
    """
    try:
        from kubernetes import config
        from kubernetes.client import Configuration
    except ImportError as error:
        raise require_extra("kubernetes", "operator") from error
    configuration = Configuration()
    try:
        if kubeconfig is None and context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                config.load_kube_config(client_configuration=configuration)
        else:
            config.load_kube_config(kubeconfig, context, client_configuration=configuration)
    except (config.ConfigException, OSError, TypeError) as error:
        raise EnvironmentProblemError(
            f"there is no usable configuration of a cluster ({error})",
            where=kubeconfig or "KUBECONFIG",
            remedy="Name one by --context or KUBECONFIG; see `kubectl config get-contexts`.",
        ) from error
    return Kube(configuration)


def namespace_of(context: str, *, kubeconfig: str | None = None) -> str:
    """Returns the namespace that a context of the kubeconfig names, `default` where it names none."""
    from kubernetes import config

    contexts, _ = config.list_kube_config_contexts(kubeconfig)
    found: Document = next((one for one in contexts if one["name"] == context), {})
    return str(found.get("context", {}).get("namespace") or "default")
