"""The command line as a whole: it answers at once, and each kind of error becomes its message and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from slipway.cli import main as entry
from slipway.cli.main import VERBS, run_command_line
from slipway.cli.options import output_option
from slipway.contracts.errors import GateError

HEAVY = ("kfp", "torch", "mlflow", "feast", "duckdb", "ibis", "pandas", "numpy", "pyarrow", "kserve", "rich", "yaml")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """A verb `fail` that raises what the test puts under "error"."""
    raised: dict[str, Exception] = {}

    @click.command()
    @output_option
    def fail(output: str) -> None:
        raise raised["error"]

    monkeypatch.setitem(VERBS, "fail", ("tests_fail:fail", "fails"))
    module = type(sys)("tests_fail")
    module.fail = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_fail", module)
    return raised


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, json; from slipway.cli.main import run_command_line; code = run_command_line(['--help']);"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    best = 1e9
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert not [name for name in HEAVY if name in modules]
    assert all(name in done.stdout for name in VERBS)
    # Idle it takes a fifth of a second; the margin is for a machine that does other things as well.
    assert best < 1.0


def test_every_verb_of_the_table_has_help_with_an_example() -> None:
    for name, (module, attribute) in ((name, target.split(":")) for name, (target, _) in VERBS.items()):
        command = getattr(__import__(module, fromlist=[attribute]), attribute)
        usage, _, rest = command.get_help(click.Context(command, info_name=f"slipway {name}")).partition("\n")
        assert usage.startswith(f"Usage: slipway {name}")
        assert f"slipway {name}" in rest or isinstance(command, click.Group), f"{name} shows no example"


def test_an_error_of_ours_keeps_its_exit_code_and_says_what_where_and_what_to_do(
    verb: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    verb["error"] = GateError("ndcg@10 is 0.01", where="gates[0]", remedy="Train longer.")
    assert run_command_line(["fail"]) == 3
    assert capsys.readouterr().err == "error: gates[0]: ndcg@10 is 0.01. Train longer.\n"
    assert run_command_line(["fail", "-o", "json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["remedy"] == "Train longer."


def test_a_missing_package_names_the_extra_that_brings_it(
    verb: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    verb["error"] = ModuleNotFoundError("No module named 'kserve.x'", name="kserve.x")
    assert run_command_line(["fail"]) == 1
    assert "pip install 'slipway[serve]'" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_and_a_saved_traceback(
    verb: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    verb["error"] = ZeroDivisionError("division by zero")
    assert run_command_line(["fail"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    saved = Path(message.split()[-1])
    assert "ZeroDivisionError" in saved.read_text()
    saved.unlink()


def test_wrong_use_exits_with_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command_line(["no-such-verb"]) == 2
    assert run_command_line(["schema", "--no-such-option"]) == 2
    assert run_command_line(["run", "-f", str(tmp_path / "absent.yaml")]) == 2
    assert "slipway init films" in capsys.readouterr().err
    wrong = tmp_path / "slipway.yaml"
    wrong.write_text("apiVersion: slipway.dev/v1alpha1\nname: films\ndata:\n  interactions: {sauce: x.csv}\n")
    assert run_command_line(["run", "-f", str(wrong)]) == 2
    message = capsys.readouterr().err
    assert "line 4" in message
    assert "Did you mean 'source'?" in message


def test_an_interrupt_exits_as_shells_count_it(verb: dict[str, Exception], capsys: pytest.CaptureFixture[str]) -> None:
    verb["error"] = KeyboardInterrupt()  # type: ignore[assignment]
    assert run_command_line(["fail"]) == entry.INTERRUPTED


def test_init_copies_an_example_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["init", "films"]) == 0
    assert (tmp_path / "films" / "slipway.yaml").is_file()
    assert not (tmp_path / "films" / "__init__.py").exists()
    (tmp_path / "films" / "slipway.yaml").write_text("mine")
    assert run_command_line(["init", "films"]) == 2
    assert (tmp_path / "films" / "slipway.yaml").read_text() == "mine"
    assert run_command_line(["init", "filmz"]) == 2
    assert "films" in capsys.readouterr().err


def test_schema_prints_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["schema"]) == 0
    assert "data" in json.loads(capsys.readouterr().out)["properties"]
