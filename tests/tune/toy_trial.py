"""A trial that takes no time: its objective is best at x = 3. The parameter `mode` says how else it behaves."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

values = json.loads(os.environ["SLIPWAY_TRIAL_PARAMETERS"])
folder = Path(os.environ["SLIPWAY_TRIAL_FOLDER"])


def end_with_the_sweep() -> None:
    os.read(int(os.environ["SLIPWAY_TRIAL_LIFELINE"]), 1)
    os._exit(9)


threading.Thread(target=end_with_the_sweep, daemon=True).start()
(folder / "pid").write_text(str(os.getpid()))
(folder / "threads").write_text(f"{os.environ['OMP_NUM_THREADS']} {len(os.sched_getaffinity(0))}")
mode = values.get("mode", "well")
value = -((float(values["x"]) - 3.0) ** 2)
gate = os.environ.get("TOY_GATE")
if gate is not None:
    until = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < until:
        time.sleep(0.02)
if mode == "fails":
    (folder / "error.json").write_text(json.dumps({"what": "the toy broke", "where": "model.parameters"}))
    sys.exit(1)
if mode == "silent":
    sys.exit(0)
if mode == "hangs":
    time.sleep(60)
if mode == "curve":
    # The bad ones say so from the beginning and then take their time.
    for epoch in range(4):
        print(f"ndcg@5 = {value * (1 + 1 / (epoch + 1)):.6f}", file=sys.stderr, flush=True)
    if value < -4.0:
        time.sleep(60)
print(f"mrr@5={value / 2!r}")
print(f"ndcg@5={value!r}")
