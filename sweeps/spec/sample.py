"""Values that are drawn per seed. A draw is the same at any time and on any machine."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagination.schema import Scalar
from jobs.identity import canonical_json

DIGITS = 6
"""Significant digits of a drawn number. The last bit of `exp` may differ between machines; a run id must not."""

KINDS = ("loguniform", "uniform", "randint", "choice")


@dataclass(frozen=True)
class Distribution:
    """One of `KINDS`: `choice` has any number of values, the others a low and a high end."""

    kind: str
    values: Sequence[Scalar]

    def draw(self, cell: Mapping[str, Scalar], key: str, seed: int) -> Scalar:
        """Draws a run's value. It depends on the arguments only.

        Args:
            cell: the cell's complete config without its seed and before anything is drawn.
            key: the config key that is drawn.
            seed: the run's seed.
        """
        text = f"{canonical_json(cell)}\n{key}\n{seed}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest())
        if self.kind == "choice":
            return self.values[number % len(self.values)]
        low, high = (float(value) for value in self.values)
        if self.kind == "randint":
            return int(low) + number % (int(high) - int(low) + 1)
        share = (number >> 203) / 2**53  # the upper 53 bits
        if self.kind == "loguniform":
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)
