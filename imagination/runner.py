"""What trains the runs of an experiment. The worker knows a `Runner`, and nothing of what it does. Torch-free."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagination.pace import Pace
from imagination.recorder import Arrays, Recorder

if TYPE_CHECKING:  # slow to import
    import torch


class CheckpointError(Exception):
    """A checkpoint does not fit its run, for example because another version of this package wrote it.

    Attributes:
        index: the run's place in its pack.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Needed:
    """What a run builds on: the result of another run, or a file.

    Attributes:
        config: the other run's config, as its experiment's dataclass; None for a file.
        metrics: the other run's metrics.
        files: its weights (`weights`) and artifacts by name; for a file, the file as `file`.
    """

    config: Any
    metrics: Mapping[str, float | None]
    files: Mapping[str, Path]

    def arrays(self, name: str = "weights") -> Arrays:
        """The arrays that the other run left under this name; its final weights by default.

        Raises:
            KeyError: it left nothing of this name.
        """
        from safetensors.numpy import load_file

        return dict(load_file(self.files[name]))


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a pack.

    Attributes:
        config: its config, the experiment's dataclass.
        recorder: receives its results.
        checkpoint: what it continues from; None at its first start.
        needs: what it builds on, by config key.
    """

    config: Any
    recorder: Recorder
    checkpoint: Arrays | None = None
    needs: Mapping[str, Needed] = field(default_factory=dict)


class Runner(ABC):
    """Trains packs: runs whose configs are equal in all keys but those with `packs=True`; padded packs, and `pads`."""

    @abstractmethod
    def train(
        self,
        runs: Sequence[Run],
        *,
        device: "torch.device",
        stop: Callable[[], bool],
        checkpoint_every_s: float,
        slots: int | None = None,
    ) -> bool:
        """Train the runs, and tell each one's recorder how it ended (`finish` or `fail`).

        After an exception, the worker calls this again with halves of the pack, so that only the faulty run fails.

        Args:
            runs: the pack.
            device: where to train.
            stop: asked often; once it returns True, every open run is saved by `Recorder.checkpoint` and left.
            checkpoint_every_s: seconds between checkpoints.
            slots: how many of the runs may train at once; None: all.

        Returns:
            False if `stop` ended it before all runs had ended.

        Raises:
            CheckpointError: a checkpoint does not fit. The worker sets it aside and calls again.
        """

    def pace(
        self, configs: Sequence[Any], *, device: "torch.device", within_s: float, end_s: float | None = None
    ) -> Pace | None:
        """How fast these runs train as a pack, measured for about `within_s` seconds; None: it cannot say.

        Args:
            configs: of the pack.
            device: where they train.
            within_s: for the steps of all stages.
            end_s: seconds of a run's evaluation; None: they are measured.
        """
        return None

    def agrees(self, configs: Sequence[Any], *, device: "torch.device") -> bool:
        """Whether these runs have the right gradients as a pack, with the kernels that are chosen."""
        return True

    def evaluate(
        self, config: Any, weights: Arrays, *, device: "torch.device", needs: Mapping[str, Needed]
    ) -> Mapping[str, float | None] | None:
        """The metrics of a finished run, again from its final weights and what it builds on, by config key.

        None if they do not fit, or it cannot.
        """
        return None
