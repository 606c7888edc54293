"""What the benchmark of the preset `fast` says of its runs."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "time_to_99.py"
spec = importlib.util.spec_from_file_location("time_to_99", FILE)
assert spec is not None
assert spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def run(seconds: float, outcome: str = "reached", **values: Any) -> dict[str, Any]:
    fast = {"optimizer": "muon", "steps": 900.0, "metric": 1.0}
    return {"seconds": seconds, "outcome": outcome, **fast, **values}


def test_a_run_that_diverged_is_counted_and_has_no_metric() -> None:
    runs = [run(30), run(20, metric=0.9), run(50, "diverged", metric=None, steps=None)]
    assert bench.describe(runs) == (
        "median 30 s (20 to 50), 900 steps, 2 of 3 reached 99%, 1 diverged, mean metric 0.95"
    )
    assert bench.describe(runs[2:]) == "median 50 s (50 to 50), 0 of 1 reached 99%, 1 diverged"


def test_both_sides_are_printed_with_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    bench._print(3, [run(100, "diverged", optimizer="adam", metric=None), run(25)])
    assert capsys.readouterr().out.splitlines() == [
        "3/3: ratio 0.250",
        "  pilot median 100 s (100 to 100), 900 steps, 0 of 1 reached 99%, 1 diverged",
        "  fast  median 25 s (25 to 25), 900 steps, 1 of 1 reached 99%, mean metric 1.00",
    ]
