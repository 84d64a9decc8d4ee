"""The parts of the KServe SDK that a predictor needs, without what it does not.

`import kserve` also loads the Kubernetes client, a hundred API models and pandas: more than half of its time and
memory. A predictor needs the server alone. So the package is entered without running its `__init__`, and pandas is
loaded when, and only when, someone asks a tensor for a data frame. Names that `kserve` exports stay available:
they are imported when first used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

_EXPORTS = {
    "Model": "kserve.model",
    "ModelServer": "kserve.model_server",
    "ModelRepository": "kserve.model_repository",
    "InferRequest": "kserve.protocol.infer_type",
    "InferInput": "kserve.protocol.infer_type",
    "InferResponse": "kserve.protocol.infer_type",
    "InferOutput": "kserve.protocol.infer_type",
    "InferenceGRPCClient": "kserve.inference_client",
    "InferenceRESTClient": "kserve.inference_client",
    "RESTConfig": "kserve.inference_client",
    "KServeClient": "kserve.api.kserve_client",
}


class _SlimPackage(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module 'kserve' has no attribute {name!r} in a predictor")
        return getattr(importlib.import_module(_EXPORTS[name]), name)


class _DeferredPandas(types.ModuleType):
    """Stands for pandas inside the SDK: any attribute loads the real one, except while annotations are read."""

    importing = True

    def __getattr__(self, name: str) -> Any:
        if self.importing:
            if name.startswith("__"):
                raise AttributeError(name)
            return Any
        return getattr(importlib.import_module("pandas"), name)


@contextlib.contextmanager
def _slim_import() -> Iterator[None]:
    if "kserve" in sys.modules:  # someone chose the whole package already
        yield
        return
    specification = importlib.util.find_spec("kserve")
    if specification is None:
        raise ModuleNotFoundError("No module named 'kserve'; install slipway[serve]", name="kserve")
    package = _SlimPackage("kserve")
    package.__spec__ = specification
    package.__file__ = specification.origin
    package.__path__ = list(specification.submodule_search_locations or ())
    sys.modules["kserve"] = package
    placeholders: dict[str, types.ModuleType | None] = {}
    if "pandas" not in sys.modules:
        placeholders["pandas"] = _DeferredPandas("pandas")
    if "httpx" not in sys.modules:
        placeholders["httpx._main"] = None  # httpx's command line: an import error is what it expects without extras
    sys.modules.update(placeholders)  # type: ignore[arg-type]
    arguments, sys.argv = sys.argv, sys.argv[:1]  # kserve.model_server parses the command line when imported
    try:
        yield
    except BaseException:
        sys.modules.pop("kserve", None)
        raise
    finally:
        sys.argv = arguments
        for name, module in placeholders.items():
            sys.modules.pop(name, None)
            if isinstance(module, _DeferredPandas):
                module.importing = False


with _slim_import():
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
    from kserve.logging import logger
    from kserve.model import Model
    from kserve.model_server import ModelServer
    from kserve.model_server import app as kserve_app
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc import grpc_predict_v2_pb2, grpc_predict_v2_pb2_grpc
    from kserve.protocol.grpc.server import GRPCServer
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, InferResponse, to_http_parameters
    from kserve.protocol.rest.server import RESTServer

__all__ = [
    "DataPlane",
    "GRPCServer",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InferenceServicer",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelServer",
    "RESTServer",
    "ServerNotReady",
    "grpc_predict_v2_pb2",
    "grpc_predict_v2_pb2_grpc",
    "kserve_app",
    "logger",
    "to_http_parameters",
]
