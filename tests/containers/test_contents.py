"""What is in the images, and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from container_engine import BUILT, ROOT, Engine, images

pytestmark = pytest.mark.container

LOOK = r"""
import importlib.metadata, json, os, shutil, sys
files = []
for top, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(top, name) not in ("/proc", "/sys", "/dev")]
    files += [os.path.join(top, name) for name in (*names, *(name for name in folders if name == ".git"))]
tools = [name for name in ("pip", "pip3", "uv", "gcc", "cc", "make", "git", "curl", "wget") if shutil.which(name)]
packages = sorted(d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions())
writable = [folder for folder in ("/opt/slipway", "/etc", "/usr") if os.access(folder, os.W_OK)]
print(json.dumps({"files": files, "tools": tools, "packages": packages, "writable": writable, "user": os.getuid()}))
"""


@pytest.fixture(scope="module", params=list(images()) or ["none"])
def part(request: pytest.FixtureRequest, engine: Engine) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(part: str, engine: Engine) -> dict[str, Any]:
    outcome = engine.run(part, "-c", LOOK, flags=["--entrypoint", "python"])
    assert outcome.returncode == 0, outcome.stderr
    content: dict[str, Any] = json.loads(outcome.stdout)
    return content


def test_image_holds_what_its_lock_names_and_no_more(part: str, seen: dict[str, Any]) -> None:
    lock = (ROOT / "requirements" / "images" / f"{part}.txt").read_text()
    named = {
        name.lower().replace("_", "-").replace(".", "-")
        for name, marker in re.findall(r"^([A-Za-z0-9._-]+)==[^\s;]+(?: ; ([^\\\n]*))?", lock, re.MULTILINE)
        if _holds_here(marker)
    }
    assert set(seen["packages"]) == named | {"slipway"}


def _holds_here(marker: str) -> bool:
    from packaging.markers import Marker

    environment = {
        "python_version": "3.11",
        "python_full_version": "3.11.2",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    return not marker.strip() or Marker(marker.strip()).evaluate(environment)


def test_image_holds_torch_only_where_it_trains_with_it(part: str, seen: dict[str, Any]) -> None:
    assert ("torch" in seen["packages"]) == (part == "train")


def test_image_holds_no_build_tools_and_no_package_manager_of_python(seen: dict[str, Any]) -> None:
    assert seen["tools"] == []


def test_image_holds_no_history_tests_or_keys(seen: dict[str, Any]) -> None:
    forbidden = re.compile(
        r"/\.git$|/\.git/|/tests/(?:.*/)?test_[^/]*\.pyc?$|/conftest\.pyc?$|\.(?:key|pfx|p12)$|/id_(?:rsa|ed25519)$"
        r"|/\.(?:netrc|pypirc|pip/|aws/|docker/|kube/|cache/)|/\.env$|^/(?:build|source|wheel)/"
    )
    ours = [
        file
        for file in seen["files"]
        if file.startswith(("/opt/", "/root/", "/home/", "/build", "/source", "/tmp/", "/wheel"))
    ]
    assert ours, "nothing was looked at"
    assert [file for file in ours if forbidden.search(file)] == []


def test_image_has_a_numeric_user_that_can_write_none_of_it(part: str, engine: Engine, seen: dict[str, Any]) -> None:
    assert engine.inspect(part)["Config"]["User"] == "65532:65532"
    assert seen["user"] == 65532
    assert seen["writable"] == []


def test_image_says_where_it_comes_from(part: str, engine: Engine) -> None:
    labels = engine.inspect(part)["Config"]["Labels"]
    facts = json.loads(BUILT.read_text())[part]
    assert labels["org.opencontainers.image.revision"] == facts["revision"]
    assert labels["org.opencontainers.image.version"] == facts["tag"]
    assert labels["org.opencontainers.image.source"].startswith("https://")
    assert labels["org.opencontainers.image.description"] == facts["holds"]


def test_image_answers_to_help_at_once_and_without_a_network(part: str, engine: Engine) -> None:
    outcome = engine.run(part, "--help")
    assert outcome.returncode == 0, outcome.stderr
    assert "usage: " in outcome.stdout
