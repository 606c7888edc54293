from dataclasses import dataclass

from imagination.declaration import Command, Declaration, Gate
from imagination.schema import RunConfig, setting


@dataclass(frozen=True, kw_only=True)
class ParityConfig(RunConfig):
    bits: int = setting(4, low=2, high=12)
    width: int = setting(32, low=1)
    lr: float = setting(0.5, above=0)
    max_steps: int = setting(2000, low=1)

    @property
    def total_steps(self) -> int:
        return self.max_steps


PARITY = Declaration(
    name="parity",
    config=ParityConfig,
    cells=("bits", "width"),
    metrics={"accuracy": "the share of all inputs whose parity is right"},
    gate=Gate("accuracy", 0.95),
    function="parity.train:run",
    figures={"loss": Command("parity.figures:loss", "Draw the loss of each run during the training.")},
)
