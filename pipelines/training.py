"""The training pipeline: validate -> featurize -> train -> evaluate -> register.

One definition for both places: `slipway run` hands it to kfp.local, `slipway compile` writes it for a cluster.
"""

from typing import Any

from kfp import dsl

from slipway.components.evaluate.component import evaluate
from slipway.components.featurize.component import featurize
from slipway.components.register.component import register
from slipway.components.train.component import train
from slipway.components.validate.component import validate
from slipway.contracts.durations import parse_duration
from slipway.pipelines.settings import StepSettings

# Registering has an effect outside the pipeline: KFP must not take its outcome from a cache.
STEPS_WITH_EFFECTS = frozenset({"register"})


def build_training(settings: dict[str, Any]) -> Any:
    """Returns the pipeline for one project.

    Args:
        settings: {"name": project name, "image": container image or None, "steps": {step: StepSettings as a dict}};
            the steps may end early, at any of the five.
    """
    steps = {name: StepSettings.model_validate(content) for name, content in settings["steps"].items()}
    image = settings.get("image")

    def task(step: str, component: Any, **inputs: Any) -> Any:
        own = steps[step]
        made = component(
            config=own.config,
            place=own.place,
            data_fingerprint=own.data_fingerprint,
            code_fingerprint=own.code_fingerprint,
            environment_fingerprint=own.environment_fingerprint,
            timeout=own.timeout,
            **inputs,
        )
        made.set_retry(own.retries, backoff_duration=_whole_seconds(own.retry_backoff), backoff_factor=2.0)
        made.set_caching_options(step not in STEPS_WITH_EFFECTS)
        if image:
            made.set_container_image(image)
        return made

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=settings["name"], description="From raw interactions to a registered model."
    )
    def training() -> None:
        dataset = task("validate", validate).outputs["dataset"]
        if "featurize" in steps:
            features = task("featurize", featurize, dataset=dataset).outputs["features"]
        if "train" in steps:
            model = task("train", train, features=features).outputs["model"]
        if "evaluate" in steps:
            evaluation = task("evaluate", evaluate, dataset=dataset, features=features, model=model).outputs[
                "evaluation"
            ]
        if "register" in steps:
            task("register", register, dataset=dataset, features=features, model=model, evaluation=evaluation)

    return training


def _whole_seconds(duration: str) -> str:
    # KFP knows no fractions of a second.
    return f"{round(parse_duration(duration).total_seconds())}s"
