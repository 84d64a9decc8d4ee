"""`slipway ui`: the page on which rollouts explain themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli.options import file_option, output_option
from slipway.cli.output import emit, note
from slipway.contracts.errors import SlipwayError

if TYPE_CHECKING:
    from slipway.contracts.rollout import RolloutSpec


@click.command()
@file_option
@output_option
@click.option("--port", type=click.IntRange(1, 65535), help="Port; the first free one from 8765 on by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--allow-host", "allowed", multiple=True, metavar="NAME", help="Another name to answer to; repeatable.")
@click.option("--read-only", is_flag=True, help="Show everything, let nobody change anything.")
@click.option("--new-token", is_flag=True, help="Make a new token; pages that are open ask for it.")
def ui(
    file: Path,
    output: str,
    port: int | None,
    host: str,
    allowed: tuple[str, ...],
    *,
    read_only: bool,
    new_token: bool,
) -> None:
    """Serve a live page of all rollouts: why each is where it is, and buttons to stop it or let it go on.

    The address that is printed holds the token that buttons need; it is also in .slipway/serving/ui-token, which only
    you can read. Ctrl-C ends it; rollouts go on.

    \b
    Examples:
      slipway ui
      slipway ui -f films/slipway.yaml --port 9000
      slipway ui --read-only --host 0.0.0.0 --allow-host build-7.example.org
    """
    import asyncio
    import logging

    from slipway.contracts.project import load_project
    from slipway.serving.local.layout import PlaneLayout
    from slipway.serving.ui.access_token import load_or_create_token
    from slipway.serving.ui.app import Page
    from slipway.serving.ui.local_source import LocalSource
    from slipway.serving.ui.server import open_port, serve

    def retry(old: RolloutSpec) -> str:
        from slipway.serving.rollout.start import create_rollout, prepare

        versions = [f"{old.model}/{candidate.version}" for candidate in old.candidates]
        return create_rollout(prepare(load_project(file), versions, retry=True)).id

    directory = _directory(file)
    token_file = PlaneLayout(directory).root / "ui-token"
    token = load_or_create_token(token_file, renew=new_token)
    source = LocalSource(directory, retry=retry, read_only=read_only)
    wildcard = host in ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
    hosts = {*allowed, *([] if wildcard else [host])}
    with open_port(host, port) as listener:
        shown = "localhost" if wildcard else f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        url = address if read_only else f"{address}#token={token}"
        if host not in ("127.0.0.1", "::1", "localhost"):
            note("Everyone who reaches this address can read the rollouts, and the token travels unencrypted.")
        emit(
            {"url": url, "token_file": str(token_file), "read_only": read_only},
            output,
            table=f"{url}\n{'read-only' if read_only else f'token in {token_file}'}; Ctrl-C ends the page",
        )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        asyncio.run(serve(Page(source, token=token, hosts=hosts), listener))


def _directory(file: Path) -> Path:
    """Returns the project's folder; a broken project file must not hide its rollouts."""
    from slipway.contracts.project import load_project

    try:
        return load_project(file).directory
    except SlipwayError:
        folder = file.absolute().parent
        if (folder / ".slipway" / "serving").is_dir():
            return folder
        raise
