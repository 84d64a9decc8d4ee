"""Writes the latest feature values of an artifact to the online store, as a short process of its own.

Exit status 0: written; 3: the artifact cannot be used; 4: the store cannot be reached.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slipway.contracts.errors import ServiceError, SlipwayError

ARTIFACT_PROBLEM, STORE_PROBLEM = 3, 4


def main() -> int:
    """Runs `python -m slipway.serving.local.materialize --features DIR --redis URL --project NAME`."""
    parser = argparse.ArgumentParser(prog="python -m slipway.serving.local.materialize", description=__doc__)
    parser.add_argument("--features", type=Path, required=True, help="features artifact")
    parser.add_argument("--redis", required=True, help="URL of the online store")
    parser.add_argument("--project", required=True, help="name space of the features")
    arguments = parser.parse_args()
    from slipway.feature_store.materialize import materialize
    from slipway.feature_store.online import OnlineStore

    try:
        rows = materialize(arguments.features, OnlineStore(arguments.redis, arguments.project))
    except ServiceError as error:
        print(f"error: {error}", flush=True)
        return STORE_PROBLEM
    except SlipwayError as error:
        print(f"error: {error}", flush=True)
        return ARTIFACT_PROBLEM
    for view, count in rows.items():
        print(f"{arguments.features}: {count} rows of {view}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
