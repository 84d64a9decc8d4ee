"""Slipway takes a model from raw events to production traffic, step by step."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("slipway")
except PackageNotFoundError:  # a source tree on sys.path that was never installed
    __version__ = "0.0.0+source"
