"""A pipeline with a parameter whose name YAML 1.1 takes for a boolean."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def square(y: int) -> int:
    return y * y


def build(settings: dict[str, Any]) -> Any:
    @dsl.pipeline(name="squares")
    def squares() -> None:
        square(y=3)

    return squares
