"""Builds the container images of Slipway with podman or docker, and writes what came out as JSON and as a table.

    python containers/build.py [PART ...]            # default: every part
    python containers/build.py --push train          # also pushes, and records the registry's digest

What is built is the commit that is checked out, not the files beside it, so that one commit gives one image. The
result goes to build/images.json: {part: {repository, tag, digest, image_id, bytes, packages, holds, revision}}.
`digest` is that of the manifest as the registry knows it, thus null until the image was pushed; a cluster with a
registry refers to images by it.

Environment: ENGINE (podman or docker), REGISTRY (default ghcr.io/slipway), PYTHON_IMAGE (base), BUILD_FLAGS (more flags
of the engine's build command).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "containers" / "Dockerfile"
RESULT = ROOT / "build" / "images.json"
TARGET = re.compile(r"^FROM runtime AS (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Image:
    """One built image. `bytes` is its unpacked size, `packages` counts its Python distributions besides this one."""

    repository: str
    tag: str
    digest: str | None
    image_id: str
    bytes: int
    packages: int
    holds: str
    revision: str

    @property
    def name(self) -> str:
        """What the engine calls it."""
        return f"{self.repository}:{self.tag}"


def parts() -> list[str]:
    """Returns the targets of the Dockerfile that are images, in its order."""
    return TARGET.findall(DOCKERFILE.read_text())


def description(part: str) -> str:
    """Returns what the Dockerfile says that an image does."""
    stage = DOCKERFILE.read_text().partition(f"FROM runtime AS {part}\n")[2]
    return stage.partition('image.description="')[2].partition('"')[0]


def stages_for(part: str, dockerfile: str) -> str:
    """Returns the Dockerfile with the stages that `part` needs: older podmans build every stage, needed or not."""
    head, *stages = re.split(r"^(?=FROM )", dockerfile, flags=re.MULTILINE)
    named = {stage.split(maxsplit=4)[3]: stage for stage in stages}
    needed: set[str] = set()
    waiting = [part]
    while waiting:
        name = waiting.pop()
        if name in named and name not in needed:
            needed.add(name)
            waiting += re.findall(r"(?:^FROM |--from=)(\S+)", named[name], re.MULTILINE)
    return head + "".join(stage for name, stage in named.items() if name in needed)


def output(*command: str) -> str:
    """Returns what a command prints.

    Raises:
        subprocess.CalledProcessError: It failed; its messages are on stderr.
    """
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def find_engine() -> str:
    """Returns podman or docker, whichever is there; ENGINE decides where both are."""
    named = os.environ.get("ENGINE")
    for name in [named] if named else ["podman", "docker"]:
        if shutil.which(name):
            return name
    sys.exit(f"error: {named or 'podman or docker'} is needed to build images: apt-get install podman")


def lay_out_context(folder: Path) -> None:
    """Fills a folder with the commit that is checked out."""
    archive = folder.with_suffix(".tar")
    with archive.open("wb") as file:
        subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=file)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def build(engine: str, part: str, context: Path) -> Image:
    """Builds one image.

    Raises:
        subprocess.CalledProcessError: The engine failed.
    """
    version = tomllib.loads((context / "pyproject.toml").read_text())["project"]["version"]
    revision = output("git", "rev-parse", "HEAD")
    epoch = output("git", "show", "--no-patch", "--format=%ct", "HEAD")
    repository = f"{os.environ.get('REGISTRY', 'ghcr.io/slipway')}/slipway-{part.replace('_', '-')}"
    name = f"{repository}:{version}"
    arguments = {"VERSION": version, "REVISION": revision, "SOURCE_DATE_EPOCH": epoch}
    if base := os.environ.get("PYTHON_IMAGE"):
        arguments["PYTHON_IMAGE"] = base
    dockerfile = context / "containers" / f"Dockerfile.{part}"
    dockerfile.write_text(stages_for(part, (context / "containers" / "Dockerfile").read_text()))
    shutil.copy(context / "containers" / "Dockerfile.dockerignore", f"{dockerfile}.dockerignore")
    command = [engine, "build", "--file", str(dockerfile), "--target", part, "--tag", name]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    if engine == "podman":
        # BuildKit takes the first two from the Dockerfile's neighbour and SOURCE_DATE_EPOCH. Docker's format names the
        # container in which an image was built, so that no two builds agree.
        command += ["--ignorefile", f"{dockerfile}.dockerignore", "--timestamp", epoch, "--format", "oci"]
    command += shlex.split(os.environ.get("BUILD_FLAGS", ""))
    subprocess.run([*command, str(context)], check=True, stdout=sys.stderr)
    facts = json.loads(output(engine, "image", "inspect", name))[0]
    lock = (context / "requirements" / "images" / f"{part}.txt").read_text()
    return Image(
        repository=repository,
        tag=version,
        digest=None,
        image_id=facts["Id"].removeprefix("sha256:"),
        bytes=facts["Size"],
        packages=len(set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE))),
        holds=description(part),
        revision=revision,
    )


def push(engine: str, image: Image) -> Image:
    """Pushes an image and returns it with the digest that the registry knows it by."""
    if engine == "podman":
        with tempfile.NamedTemporaryFile("r") as file:
            subprocess.run([engine, "push", "--digestfile", file.name, image.name], check=True, stdout=sys.stderr)
            digest = Path(file.name).read_text().strip()
    else:
        subprocess.run([engine, "push", image.name], check=True, stdout=sys.stderr)
        digests = json.loads(output(engine, "image", "inspect", image.name))[0]["RepoDigests"]
        digest = next(entry for entry in digests if entry.startswith(f"{image.repository}@")).partition("@")[2]
    return Image(**{**asdict(image), "digest": digest})


def record(part: str, image: Image) -> None:
    """Adds an image to build/images.json, in one rename."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known[part] = asdict(image)
    RESULT.parent.mkdir(exist_ok=True)
    partial = RESULT.with_suffix(".partial")
    partial.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    partial.replace(RESULT)


def table() -> str:
    """Returns the images built so far: name, size, packages, what it holds."""
    images = {part: Image(**facts) for part, facts in json.loads(RESULT.read_text()).items()}
    width = max(len(image.name) for image in images.values())
    lines = [f"{'image':{width}}  {'size':>8}  packages  what it does"]
    for part in sorted(images, key=lambda part: images[part].bytes):
        image = images[part]
        lines.append(f"{image.name:{width}}  {image.bytes / 1e6:5.0f} MB  {image.packages:8}  {image.holds}")
    return "\n".join(lines)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Builds the container images.", allow_abbrev=False)
    parser.add_argument("part", nargs="*", help=f"one of {', '.join(parts())} (default: all)")
    parser.add_argument("--push", action="store_true", help="push to REGISTRY and record the digest")
    options = parser.parse_args()
    if unknown := set(options.part) - set(parts()):
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(parts())}")
    engine = find_engine()
    if output("git", "status", "--porcelain", "--untracked-files=no"):
        print("warning: changes that are not committed are not in the images", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="slipway-images-") as folder:
        context = Path(folder) / "context"
        context.mkdir()
        lay_out_context(context)
        for part in options.part or parts():
            try:
                image = build(engine, part, context)
                record(part, push(engine, image) if options.push else image)
            except subprocess.CalledProcessError as error:
                print(f"error: {part}: {engine} ended with code {error.returncode}", file=sys.stderr)
                return 1
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
