import time

import numpy as np


def source(config, recorder):
    numbers = np.random.default_rng(config.seed).integers(1, 100, config.size)
    recorder.metric("good", config.quality)
    recorder.artifact("numbers", {"numbers": numbers})
    recorder.artifact("note.txt", b"ten numbers")


def step(config, recorder):
    """A round takes a tenth of a second, so that a test can disturb it; every round adds the numbers once."""
    needed = recorder.needs["source"]
    whole = np.load(needed.files["file"]) if "file" in needed.files else needed.arrays("numbers")["numbers"]
    state = recorder.restored or {"step": np.array(0), "sum": np.array(0)}
    done, total = int(state["step"]), int(state["sum"])
    while done < config.rounds:
        recorder.checkpoint({"step": np.array(done), "sum": np.array(total)})
        time.sleep(0.1)
        total += config.factor * int(whole.sum())
        done += 1
        recorder.progress(done, {"sum": total})
    recorder.metric("sum", total)
    recorder.artifact("product", {"sum": np.array(total)})


def join(config, recorder):
    sides = [recorder.needs[side].arrays("product")["sum"] for side in ("left", "right")]
    assert [int(side) for side in sides] == [
        recorder.needs[side].metrics["sum"] for side in ("left", "right")
    ]
    recorder.metric("total", int(sum(sides)))
