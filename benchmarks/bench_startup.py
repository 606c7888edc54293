"""How fast the commands answer, beside a plain `import torch`, which they avoid.

python benchmarks/bench_startup.py [--repeats 7]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

COMMANDS = {
    "imagine-sweep --help": ("from sweeps.cli.root import main; main()", ["--help"]),
    "imagine-sweep plan quick": (
        "from sweeps.cli.root import main; main()",
        ["plan", "quick", "--db", "none.db"],
    ),
    "imagine-results --help": ("from results_db.cli import main; main()", ["--help"]),
    "imagine-results table --json": (
        "from results_db.cli import main; main()",
        ["table", "--json", "--db", "none.db"],
    ),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch_s = _median("import torch", [], repeats)
    print(f"import torch: {torch_s:.2f} s (median of {repeats})")
    for name, (code, arguments) in COMMANDS.items():
        seconds = _median(code, arguments, repeats)
        print(f"{name}: {seconds:.2f} s, ratio {torch_s / seconds:.1f}")


def _median(code: str, arguments: Sequence[str], repeats: int) -> float:
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=True
            )
            times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
