"""The S3 store that the environment describes, as the AWS tools take it; for sources and for registered bundles.

AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; without keys the pod's own identity is used.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pyarrow.fs as pafs

S3 = "s3://"


def object_store() -> pafs.FileSystem:
    """Returns the S3 store that the environment describes."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if not endpoint.netloc:
        return pafs.S3FileSystem(region=region)
    return pafs.S3FileSystem(
        region=region, endpoint_override=endpoint.netloc, scheme=endpoint.scheme, allow_bucket_creation=False
    )
