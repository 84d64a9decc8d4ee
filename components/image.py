"""The container image in which the steps run on a cluster; it holds KFP and this package."""

import os

from slipway import __version__

DEFAULT_IMAGE = os.environ.get("SLIPWAY_IMAGE", f"ghcr.io/slipway/steps-python:{__version__}")
