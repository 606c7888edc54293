"""Runs that build on runs: a source of numbers, steps that multiply them, and a join that adds two steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagination.declaration import Declaration, Gate
from imagination.schema import ConfigError, RunConfig, need, setting


@dataclass(frozen=True, kw_only=True)
class SourceConfig(RunConfig):
    quality: float = setting(1.0)
    size: int = setting(10, low=1, high=10)


@dataclass(frozen=True, kw_only=True)
class StepConfig(RunConfig):
    source: str = need("chain_source", asset=True)
    factor: int = setting(2)
    rounds: int = setting(1, low=1)
    size: int = setting(20, low=1)


@dataclass(frozen=True, kw_only=True)
class JoinConfig(RunConfig):
    left: str = need("chain_step")
    right: str = need("chain_step")


@dataclass(frozen=True, kw_only=True)
class FitConfig(RunConfig):
    source: str = need("chain_source")
    max_steps: int = setting(40, low=1)
    eval_every: int = setting(10, low=1)
    trace_every: int = setting(10, low=1)
    accuracy: float = setting(1.0)
    give_up_at: int = setting(0)
    give_up_accuracy: float = setting(0.0)

    def check_needs(self, needed: Mapping[str, Any]) -> None:
        if needed["source"].size < 2:
            raise ConfigError("source: one number is too few; give a source of at least 2")


SOURCE = Declaration(
    name="chain_source",
    config=SourceConfig,
    metrics={"good": "what the config says"},
    gate=Gate("good", 0.5),
    function="chain.runs:source",
)
STEP = Declaration(
    name="chain_step",
    config=StepConfig,
    cells=("factor",),
    metrics={"sum": "the sum of the multiplied numbers"},
    function="chain.runs:step",
)
JOIN = Declaration(
    name="chain_join",
    config=JoinConfig,
    metrics={"total": "the sum of both steps"},
    function="chain.runs:join",
)
FIT = Declaration(
    name="chain_fit",
    config=FitConfig,
    metrics={
        "learned": "the sum of the learned numbers",
        "train_accuracy": "1 once the numbers are learned",
        "steps": "training steps when the run ended",
    },
    runner="chain.packed:RUNNER",
)
