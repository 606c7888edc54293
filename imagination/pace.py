"""How fast runs train. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How fast a run trains, as its share of its worker's time.

    Attributes:
        step_s: seconds of a step, by stage.
        end_s: seconds of its evaluation.
    """

    step_s: tuple[float, ...]
    end_s: float

    def seconds(self, steps: float, *, later: float) -> float:
        """Seconds of a run with so many steps in its first stage, and `later` steps in the next."""
        return self.end_s + sum(s * count for s, count in zip(self.step_s, (steps, later), strict=False))
