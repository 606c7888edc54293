"""The results of the benchmarks, in `benchmarks/results.json`: one object per name, the newest one."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from jobs.provenance import cpu_name

NOT_MEASURED = "not measured"
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
    _write([*(row for row in _read(file) if row["name"] != name), found], file)
    return (
        f"{name}: {found['ours']} against {found['other']} {unit}, ratio {found['ratio']} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)"
    )


def not_measured(name: str, *, unit: str, file: Path = FILE) -> str:
    """Writes that nothing has measured this here, unless there is a result; the line to print."""
    kept = _read(file)
    if name not in [row["name"] for row in kept]:
        values = dict.fromkeys(("ours", "other", "ratio"), NOT_MEASURED)
        _write([*kept, {"name": name, **values, "unit": unit, "machine": NOT_MEASURED, "spread": []}], file)
    return f"{name}: {NOT_MEASURED} here"


def _read(file: Path) -> list[dict[str, object]]:
    return list(json.loads(file.read_text())) if file.exists() else []


def _write(rows: list[dict[str, object]], file: Path) -> None:
    file.write_text(json.dumps(sorted(rows, key=lambda row: str(row["name"])), indent=1) + "\n")
