"""A training that is killed again and again ends with the very weights and the loss curve of one that is left alone.

By hand, ten kills at other moments:

    SLIPWAY_TEST_KILLS=10 SLIPWAY_TEST_SEED=11 pytest tests/train/test_killed_training.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from small_features import write_features
from training_process import processes_of, start_step, train_request, until

from slipway.components.progress import Progress
from slipway.components.train.step import TrainRequest, run

pytest.importorskip("torch")

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "1"))
EPOCHS = 8


def kill_at(request: TrainRequest, outcome: Path, chance: random.Random) -> str | None:
    """Runs the step and kills a process of it at a random moment; returns whose, or None if it ended before."""
    epoch, delay = chance.randint(0, EPOCHS - 1), chance.uniform(0, 0.15)
    victim = chance.choice(["step"] if request.processes == 1 else ["step", "process 0", "process 1"])
    with start_step(request, outcome) as step:
        assert step.stderr is not None
        told = 0
        while told < epoch and (line := step.stderr.readline()):
            told += line.startswith(b"loss =")
        processes = []
        if request.processes > 1:
            processes = until(lambda: processes_of(step) or step.poll() is not None, "the processes run")
        time.sleep(delay)  # not to wait for anything: the moment of the kill
        if step.poll() is not None or processes is True:
            return None
        target = step if victim == "step" else processes[int(victim[-1])]
        try:
            target.send_signal(signal.SIGKILL)
        except Exception:  # noqa: BLE001 - gone just now
            return None
        step.stderr.read()
        code = step.wait(timeout=120)
        until(lambda: not any(process.is_running() for process in processes), "no process is left")
    if code == 0:
        return None
    if victim != "step":
        error = json.loads((outcome / "error.json").read_text())
        assert error["what"] == f"{victim} of 2 was killed by SIGKILL"
    return victim


@pytest.mark.timeout(200 + 120 * KILLS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_ends_with_the_same_weights_and_curve(processes: int, tmp_path: Path) -> None:
    features = write_features(tmp_path / "features")
    run(train_request(features, tmp_path / "alone", processes, epochs=EPOCHS), Progress())

    seed = os.environ.get("SLIPWAY_TEST_SEED", "4")
    chance = random.Random(f"{seed} {processes}")
    request = train_request(features, tmp_path / "killed", processes, tmp_path / "checkpoints", epochs=EPOCHS)
    kills: list[str] = []
    deadline = time.monotonic() + 100 + 110 * KILLS
    while len(kills) < KILLS:
        assert time.monotonic() < deadline, f"killed only {len(kills)} times"
        victim = kill_at(request, tmp_path / "outcome", chance)
        kills += [victim] if victim is not None else []
        if victim is None or chance.random() < 0.2:
            # Begin anew: most kills would be late ones otherwise.
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    run(request, Progress())
    print(f"killed: {', '.join(kills)}")
    for name in ("weights.safetensors", "index.safetensors", "model.json", "curves.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    left = [path.name for path in tmp_path.rglob(".*") if "partial" in path.name]
    assert left == []
