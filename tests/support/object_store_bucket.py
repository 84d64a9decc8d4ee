"""A bucket of a test's own in the object store that AWS_ENDPOINT_URL names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pytest


@contextmanager
def own_bucket() -> Iterator[tuple[str, pafs.FileSystem]]:
    """Makes a bucket, and removes it with all that is in it; skips where no object store is named."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    if not endpoint.netloc:
        pytest.skip("AWS_ENDPOINT_URL names no object store")
    store = pafs.S3FileSystem(
        endpoint_override=endpoint.netloc,
        scheme=endpoint.scheme,
        region="us-east-1",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    name = f"slipway-test-{secrets.token_hex(4)}"
    store.create_dir(name)
    try:
        yield name, store
    finally:
        store.delete_dir(name)
