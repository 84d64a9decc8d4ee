"""The observe step as a KFP component."""

# KFP reads annotations at run time: no `from __future__ import annotations` here.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Metrics, Output

from slipway.components.image import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def observe(
    config: str,
    place: str,
    code_fingerprint: str,
    timeout: str,
    metrics: Output[Metrics],
    window_end: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Observed",
    [
        ("data_fingerprint", str),
        ("window_start", str),
        ("window_end", str),
        ("bundle", str),
        ("bundle_sha256", str),
    ],
):
    """Looks at sources and registry before a run."""
    import json
    from collections import namedtuple

    from slipway.components.wrapper import run_component

    def load():  # type: ignore[no-untyped-def]
        from slipway.components.observe.step import ObserveRequest, run

        return ObserveRequest, run

    found = run_component(
        "observe",
        load,
        config=json.dumps(json.loads(config) | {"window_end": window_end}),
        place=place,
        inputs={},
        outputs={},
        code=code_fingerprint,
        timeout=timeout,
        metrics=metrics,
        # The world outside has no fingerprint before it was looked at: no earlier result may stand for this one.
        surroundings=lambda: None,
    )
    names = ["data_fingerprint", "window_start", "window_end", "bundle", "bundle_sha256"]
    return namedtuple("Observed", names)(*(found[name] for name in names))
