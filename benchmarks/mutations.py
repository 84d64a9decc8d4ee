"""Which mutations of the rollout core its tests notice: one at a time, in a copy of the tree.

Each mutation turns a comparison round, removes a rule or drops a guard. It is killed when a test of tests/rollout_core
fails under it. A mutation that survives shows a rule that no test holds.
Prints one line for each, and with --table the table of the documentation.
Run: python benchmarks/mutations.py [--only NUMBER ...] [--table]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = Path("serving/rollout/core")
TESTS = "tests/rollout_core"
_PROPERTIES = ("decide_properties", "strategy_properties")
_PATHS = ("decide_paths", "decide_commands", "strategies")
FIRST = {
    "actions.py": _PATHS,
    "alpha.py": ("statistics_exact",),
    "commands.py": _PATHS,
    "decide.py": ("decide_readings", *_PATHS),
    "differences.py": ("statistics_differences",),
    "evidence.py": ("statistics_exact",),
    "findings.py": ("statistics_differences", "better_and_margins", "decide_readings"),
    "finishing.py": _PATHS,
    "health.py": _PATHS,
    "ingest.py": ("windows_and_steps", "odd_readings", "decide_readings", "better_and_margins"),
    "judge.py": ("better_and_margins", "decide_readings", "decide_paths"),
    "progress.py": _PATHS,
    "starting.py": _PATHS,
    "transitions.py": ("transitions", "strategies", "decide_commands", "decide_paths"),
    "windows.py": ("odd_readings", "decide_readings"),
}
"""By file of the core: the tests that are asked first; then come those of properties, and in the end all."""
_TIMEOUT = 1800


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Args:
        file: In the core.
        rule: What the code there is for.
        before: Text that stands there once.
        after: What it is replaced by.
    """

    file: str
    rule: str
    before: str
    after: str


MUTATIONS = (
    Mutation("progress.py", "a step ends after its shortest time", "if ready and dwell >= due:",
             "if ready and dwell <= due:"),
    Mutation("progress.py", "a step waits for its guardrails", "if not verdict.met]", "if verdict.met]"),
    Mutation("progress.py", "without data the policy's time counts",
             "now - since > policy.no_data.hold_for:\n            why",
             "now - since < policy.no_data.hold_for:\n            why"),
    Mutation("progress.py", "without data nothing goes on", "missing = _without_data(state, policy, now)",
             "missing = None"),
    Mutation("progress.py", "weights are confirmed first", "if not health.traffic_in_force(state, observations):",
             "if False:"),
    Mutation("progress.py", "an unhealthy stable version holds the step",
             "if step.weight < 100 and not state.stable_was_healthy:", "if False:"),
    Mutation("progress.py", "a freeze holds the step",
             "frozen = policy.frozen(now)\n    if frozen is not None and state.step",
             "frozen = None\n    if frozen is not None and state.step"),
    Mutation("starting.py", "a freeze holds the start", "frozen = policy.frozen(now)", "frozen = None"),
    Mutation("starting.py", "a failed smoke test ends it", "if not result.passed:", "if False:"),
    Mutation("decide.py", "hard faults end it",
             "state = drop(state, health.hard_faults(state, observations, policy), now, remember=True)", "pass"),
    Mutation("decide.py", "evidence of harm ends it",
             "state = drop(state, _harmful(state), now, remember=True)", "pass"),
    Mutation("decide.py", "only FAIL is harm", "if verdict.outcome is Outcome.FAIL:",
             "if verdict.outcome is Outcome.ERROR:"),
    Mutation("decide.py", "the clock never goes back",
             "if now >= state.last_now:\n        return replace(state, last_now=now), now",
             "return replace(state, last_now=now), now"),
    Mutation("finishing.py", "no return to an unhealthy stable version",
             "if stays and not health.stable_is_healthy(state, observations, policy):", "if False:"),
    Mutation("finishing.py", "a return to a healthy one",
             "if stays and not health.stable_is_healthy(state, observations, policy):",
             "if stays and health.stable_is_healthy(state, observations, policy):"),
    Mutation("finishing.py", "going back takes all weight away",
             "state = replace(state, weights=all_to(stable, state.candidates))\n    alias", "alias"),
    Mutation("finishing.py", "the alias goes back too",
             "alias_is_back = not state.alias_moved or observations.champion == stable.version",
             "alias_is_back = True"),
    Mutation("finishing.py", "a watch after promotion", "and policy.watch.duration > 0 and not state.watched",
             "and False"),
    Mutation("actions.py", "an arm is stopped without traffic only", "if in_force or not state.weights:\n        ended",
             "if True:\n        ended"),
    Mutation("actions.py", "stable stays through the watch", "watched = state.watched or policy.watch.duration == 0",
             "watched = True"),
    Mutation("actions.py", "weights are asked for until they are in force", "if state.weights and not in_force:",
             "if state.weights and in_force:"),
    Mutation("health.py", "a crash loop is a hard fault", "if found.crash_looping:\n        return",
             "if False:\n        return"),
    Mutation("health.py", "lost readiness is a hard fault", "target.arm in state.were_ready and found.ready == 0",
             "False"),
    Mutation("health.py", "too many restarts are a hard fault", "if extra > policy.maximum_restarts:",
             "if extra < policy.maximum_restarts:"),
    Mutation("health.py", "weights in force are compared",
             "(found.weight_applied or 0) != weights.get(arm, 0)", "False"),
    Mutation("health.py", "copies in force are compared", "one.mirror_applied == state.mirrors.get(arm, 0)", "True"),
    Mutation("transitions.py", "a dropped candidate gets no traffic", "weights[arm] = 0", "pass"),
    Mutation("transitions.py", "those dropped before stay so", "state, dropped={**state.dropped, **leaving}",
             "state, dropped={**leaving}"),
    Mutation("transitions.py", "what went back is remembered",
             "went_back = (*went_back, *(identity for identity in identities if identity not in went_back))", "pass"),
    Mutation("transitions.py", "what went back is not tried again",
             "tried = all(candidate.identity in went_back for candidate in candidates)", "tried = False"),
    Mutation("commands.py", "a command is carried out once", "if command.id in state.handled:\n            continue",
             "if False:\n            continue"),
    Mutation("commands.py", "a version that went back is not wanted anew",
             "if wanted.identity in state.went_back:\n        return state", "if False:\n        return state"),
    Mutation("ingest.py", "a window counts once",
             "if end <= clock.last_end or start < clock.last_end - 1e-6:\n            continue",
             "if False:\n            continue"),
    Mutation("ingest.py", "warming up is no evidence", "or start < state.traffic_since:", "or False:"),
    Mutation("ingest.py", "samples of other steps do not count",
             "return state.step_since is not None and start >= state.step_since", "return True"),
    Mutation("ingest.py", "bad events are missing good ones", "window.n - window.events if guardrail.higher_is_better",
             "window.events if guardrail.higher_is_better"),
    Mutation("ingest.py", "the split is judged under constant weights",
             "if state.step_since is None or start < state.step_since:\n        return state",
             "if False:\n        return state"),
    Mutation("windows.py", "a count is not negative", "if count.events < 0 or count.n < 0:", "if False:"),
    Mutation("windows.py", "no more events than requests", "if count.events > count.n:", "if False:"),
    Mutation("windows.py", "two readings of a window agree",
             "if found.setdefault(span, {}).setdefault(reading.arm, window) != window:", "if False:"),
    Mutation("windows.py", "no window from the future", "if reading.end > now + CLOCK_SKEW else None",
             "if False else None"),
    Mutation("judge.py", "a minimum of samples", "enough = samples >= step.minimum_samples",
             "enough = samples <= step.minimum_samples"),
    Mutation("judge.py", "wrong readings give no verdict", "elif problem is not None:\n        outcome = Outcome.ERROR",
             "elif False:\n        outcome = Outcome.ERROR"),
    Mutation("judge.py", "a hard limit needs evidence", "return log_mean_exp(np.array(evidence.log_mixture)) >=",
             "return log_mean_exp(np.array(evidence.log_mixture)) <="),
    Mutation("judge.py", "harm is beyond every margin", "all(finding.harmful for finding in findings)",
             "any(finding.harmful for finding in findings)"),
    Mutation("judge.py", "old data are not fresh", "and now - last <= policy.no_data.hold_for", ""),
    Mutation("findings.py", "a difference is proven inside its margin",
             "proven=upper <= margin,\n        log_harm=log_harm,",
             "proven=lower <= margin,\n        log_harm=log_harm,"),
    Mutation("differences.py", "bets balance", "other = bet * n_c / n_s", "other = bet"),
    Mutation("evidence.py", "evidence may begin at any window",
             "np.logaddexp(log_mixture + log_ratios, later[..., None])", "log_mixture + log_ratios"),
    Mutation("alpha.py", "alpha is shared out", "policy.alpha / max(1, tests * candidates)", "policy.alpha"),
)  # fmt: skip


def mutated(tree: Path, mutation: Mutation) -> Iterator[None]:
    """Yields once while a mutation stands in a copy of the tree."""
    file = tree / CORE / mutation.file
    text = file.read_text()
    if text.count(mutation.before) < 1:
        raise SystemExit(f"{mutation.file} no longer holds: {mutation.before}")
    file.write_text(text.replace(mutation.before, mutation.after))
    yield
    file.write_text(text)


def tests_for(file: str | None) -> list[list[str]]:
    """Returns which tests to run one group after the other; all at once where no file is named."""
    everything = [sorted(str(path.relative_to(ROOT)) for path in (ROOT / TESTS).glob("test_*.py"))]
    if file is None:
        return everything
    first = [[f"{TESTS}/test_{name}.py" for name in names] for names in (FIRST[file], _PROPERTIES)]
    asked = {path for group in first for path in group}
    return [*first, [path for path in everything[0] if path not in asked]]


def failing(tree: Path, file: str | None = None) -> str | None:
    """Returns the name of the first test that fails in a copy of the tree, or None.

    Args:
        tree: The copy.
        file: Where in the core it is mutated.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    for tests in tests_for(file):
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--no-header", "-p", "no:cacheprovider", *tests],
            cwd=tree, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False,
        )  # fmt: skip
        if found.returncode:
            lines = [line for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return lines[0].split(" - ")[0].split("::")[-1] if lines else found.stdout[-200:]
    return None


def main() -> None:
    """Copies the tree as committed, applies the mutations to the copy, and prints what becomes of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations")
    parser.add_argument("--table", action="store_true", help="a line of Markdown for each")
    options = parser.parse_args()
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        if options.only is None and (broken := failing(tree)):
            raise SystemExit(f"without any mutation, {broken} fails")
        for number, mutation in enumerate(MUTATIONS):
            if options.only is not None and number not in options.only:
                continue
            started = time.monotonic()
            for _ in mutated(tree, mutation):
                test = failing(tree, mutation.file)
            if test is None:
                survived.append(number)
            if options.table:
                print(f"| `{mutation.file}` | {mutation.rule} | {test or '**survives**'} |", flush=True)
            else:
                spent = time.monotonic() - started
                print(
                    f"{number:2} {mutation.file:15} {mutation.rule}: {test or 'SURVIVED'} ({spent:.0f} s)", flush=True
                )
    print(f"{len(survived)} of {len(options.only or MUTATIONS)} survived: {survived}", file=sys.stderr)
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
