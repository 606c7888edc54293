"""Values that are drawn per seed. A draw is the same at any time, on any machine and in every cell.

So the runs of two cells that have the same seed differ in the cells' own keys alone, and can be compared in pairs.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from imagination.schema import Scalar

DIGITS = 6
"""Significant digits of a drawn number. The last bit of `exp` may differ between machines; a run id must not."""

KINDS = ("loguniform", "uniform", "randint", "choice")


@dataclass(frozen=True)
class Distribution:
    """One of `KINDS`: `choice` has any number of values, the others a low and a high end."""

    kind: str
    values: Sequence[Scalar]

    def draw(self, key: str, seed: int) -> Scalar:
        """The value of a config key in the runs with this seed.

        Key and seed decide the share of the distribution that lies below the value. So draws from two ranges of the
        same key have the same rank in both.
        """
        number = int.from_bytes(hashlib.sha256(f"{key}\n{seed}".encode()).digest())  # of 256 bits
        if self.kind == "choice":
            return self.values[number * len(self.values) >> 256]
        low, high = (float(value) for value in self.values)
        if self.kind == "randint":
            return int(low) + (number * (int(high) - int(low) + 1) >> 256)
        share = (number >> 203) / 2**53  # the upper 53 bits
        if self.kind == "loguniform":
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)
