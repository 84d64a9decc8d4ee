"""The operator's process is light: what trains and what prepares features is not in it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "feast", "mlflow", "pandas", "pyarrow", "duckdb", "kfp", "kserve")


def test_the_operator_imports_nothing_that_trains_or_prepares_features() -> None:
    code = (
        "import sys\n"
        "import kopf, kubernetes, slipway.serving.rollout.operator.operator\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
