"""The results of the benchmarks, in `benchmarks/results.json`: one object per name, the newest one."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from jobs.provenance import cpu_name

FILE = Path(__file__).with_name("results.json")


def record(
    name: str,
    ours: Sequence[float],
    other: Sequence[float],
    *,
    unit: str,
    is_rate: bool = False,
    machine: str | None = None,
    file: Path = FILE,
) -> str:
    """Writes the medians of paired measurements and the spread of their ratios; the line to print.

    A ratio above 1 is in our favour: of times other / ours, of rates ours / other.
    """
    ratios = [mine / theirs if is_rate else theirs / mine for mine, theirs in zip(ours, other, strict=True)]
    found = {
        "name": name,
        "ours": round(statistics.median(ours), 4),
        "other": round(statistics.median(other), 4),
        "ratio": round(statistics.median(ratios), 3),
        "unit": unit,
        "machine": machine or cpu_name(),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    kept = json.loads(file.read_text()) if file.exists() else []
    rows = [row for row in kept if row["name"] != name] + [found]
    file.write_text(json.dumps(sorted(rows, key=lambda row: str(row["name"])), indent=1) + "\n")
    return (
        f"{name}: {found['ours']} against {found['other']} {unit}, ratio {found['ratio']} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)"
    )
