"""The page of a sweep: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.contracts.errors import require_extra
from slipway.contracts.files import write_atomically
from slipway.pipelines.sweeps.records import SweepReport, commonest_error


def write_page(report: SweepReport, importances: Mapping[str, float], target: Path) -> None:
    """Writes the page.

    Args:
        report: What became of the sweep.
        importances: Parameter -> share; may be empty.
        target: The HTML file.

    Raises:
        EnvironmentProblemError: The disk is full, or the extra `tune` is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise require_extra(error.name or "jinja2", "tune") from error
    from slipway.pipelines.sweeps import charts

    valued = [trial for trial in report.trials if trial.value is not None]
    template = Environment(autoescape=True).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    # The pictures are ours; names and reasons in them were escaped by the library that drew them.
    text = template.render(
        report=report,
        number=number,
        why=commonest_error(report.trials),
        command=run_command(report),
        history=Markup(charts.history(report)) if valued else "",  # noqa: S704
        importances=Markup(charts.importances(importances)) if importances else "",  # noqa: S704
        coordinates=Markup(charts.parallel_coordinates(report)) if len(valued) > 1 else "",  # noqa: S704
    )
    write_atomically(target, text)


def run_command(report: SweepReport) -> str:
    """Returns the command that trains with the best parameters; empty if there are none."""
    settings = overrides(report)
    return " ".join(["slipway run", *(f"--set {shlex.quote(setting)}" for setting in settings)]) if settings else ""


def overrides(report: SweepReport) -> list[str]:
    """Returns the best parameters as `--set` of `slipway run` takes them."""
    if report.best is None:
        return []
    return [f"model.parameters.{name}={_yaml(value)}" for name, value in report.best.parameters.items()]


def _yaml(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    # YAML takes 1e-05 for text: its numbers with an exponent have a point.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def number(value: Any) -> str:
    """Returns a value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
