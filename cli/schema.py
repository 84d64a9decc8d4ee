"""`slipway schema`: the JSON Schema of the project file."""

from __future__ import annotations

import json

import click

from slipway.contracts.project import project_json_schema


@click.command(epilog="\b\nExample:\n  slipway schema > slipway.schema.json")
def schema() -> None:
    """Print the JSON Schema of slipway.yaml, for editors that complete and check as you type.

    In VS Code and other editors with the YAML language server, put this line on top of slipway.yaml:

    \b
      # yaml-language-server: $schema=slipway.schema.json
    """
    click.echo(json.dumps(project_json_schema(), indent=2))
