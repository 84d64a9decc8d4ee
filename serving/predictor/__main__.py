"""python -m slipway.serving.predictor: serves one bundle until it is told to stop."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

# One thread a product: requests, not matrix products, are what runs in parallel here. Read once, when numpy loads.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def main() -> int:
    """Returns the exit code."""
    from slipway.contracts.errors import SlipwayError
    from slipway.serving.predictor.settings import parse_arguments

    settings = parse_arguments()
    _keep_freed_memory()
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's, not ours to mend
    try:
        from slipway.serving.predictor.server import run

        run(settings)
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _keep_freed_memory() -> None:
    """Tells glibc to keep what is freed: score matrices come and go, and fresh pages cost more than the product."""
    try:
        allocator = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    allocator(-3, 64 << 20)  # M_MMAP_THRESHOLD
    allocator(-1, 256 << 20)  # M_TRIM_THRESHOLD


if __name__ == "__main__":
    sys.exit(main())
