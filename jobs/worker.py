"""Trains the runs of a pack, and records each run when it ends. Imports torch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from imagination import registry
from imagination.schema import ConfigError, rebuild
from imagination.training import native
from imagination.training.experiment import Experiment
from imagination.training.loop import Run, Trainer
from imagination.training.state import CheckpointError
from jobs.pack import Task
from jobs.provenance import cpu_name
from jobs.recording import Report, RunRecorder
from results_db.contract import Provenance, State
from results_db.spool.delivery import Delivery

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 60.0


def choose_device(name: str = "auto", *, threads: int = 1) -> torch.device:
    """The device to train on, set up so that a resumed run equals one that was never interrupted.

    On a GPU this turns TF32 off and makes convolutions deterministic.

    Args:
        name: a torch device, or `auto`: a GPU if there is one, else the CPU.
        threads: threads on the CPU; 0 leaves the choice to torch.

    Raises:
        ConfigError: there is no such device, or `threads` is negative.
    """
    if threads < 0:
        raise ConfigError(f"threads: {threads} is below 0; 0 leaves the choice to torch")
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)  # raises if there is no such device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"device: '{name}' cannot be used here; try auto or cpu ({reason})") from None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def device_name(device: torch.device) -> str:
    """The device's name for users, such as the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def kernels_name(device: torch.device) -> str:
    """The compiled kernels that convolutions have on this device, with the threads of now; `none` without any."""
    return "avx512" if native.usable(torch.zeros(0, device=device)) else "none"


def experiment_of(configs: Sequence[Any], device: torch.device) -> Experiment:
    """The first stage of these configs' experiment. Their experiment and `pack_keys` are equal."""
    experiment: Experiment = registry.load(registry.entry(configs[0].experiment).experiment)(configs, device)
    return experiment


@dataclass(frozen=True)
class _Member:
    """A run that this worker trains: its config (the experiment's dataclass) and its recorder."""

    config: Any
    recorder: RunRecorder


def run_pack(
    task: Task,
    delivery: Delivery,
    *,
    device: torch.device,
    provenance: Provenance,
    report: Report,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> dict[str, State]:
    """Trains the runs of a pack that have a claimed attempt which counts.

    Args:
        task: the pack, and the attempts that were claimed for this worker.
        delivery: brings the runs' records to the store.
        device: from `choose_device`.
        provenance: provenance of this worker's attempts; the kernels are added.
        report: receives the events `started, progress, ended, skipped` of each run.
        stop: called before every step; if it returns True, every run is checkpointed and the training ends.
        checkpoint_every_s: seconds between checkpoints.

    Returns:
        By run id, the final state of this worker's attempt. Skipped runs are left out.
    """
    provenance = replace(provenance, kernels=kernels_name(device))
    begun = {attempt.run_id: attempt for attempt in delivery.begin(task.attempts, provenance)}
    members = []
    for run in task.pack.runs:
        if run.run_id not in begun:
            report({"event": "skipped", "run_id": run.run_id})
            continue
        config: Any = rebuild(registry.config_type(str(run.config["experiment"])), run.config)
        recorder = RunRecorder(
            begun[run.run_id],
            delivery,
            max_steps=config.total_steps,
            report=report,
            log_file=provenance.log,
        )
        recorder.started()
        members.append(_Member(config, recorder))
    recorders = [member.recorder for member in members]

    def stops() -> bool:
        return stop() or all(r.superseded or r.ended_as is not None for r in recorders)

    if members:
        _train(members, device=device, stop=stops, checkpoint_every_s=checkpoint_every_s)
    return {r.attempt.run_id: r.state for r in recorders if r.state is not None}


def _train(
    members: Sequence[_Member],
    *,
    device: torch.device,
    stop: Callable[[], bool],
    checkpoint_every_s: float,
) -> None:
    """Trains these runs together; after an error, again in halves, so that in the end only the faulty run fails."""
    try:
        # Without a name: a failed trainer and its memory must be gone before the halves train.
        if not _trainer(members, device=device, checkpoint_every_s=checkpoint_every_s).train(stop=stop):
            for member in members:
                if member.recorder.ended_as is None:
                    member.recorder.interrupt()
        return
    except Exception as error:
        if len(members) == 1:
            members[0].recorder.fail(error)
            return
        log.warning("a pack of %d runs failed and is trained again in halves: %s", len(members), error)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the pack may have been too large, and its halves need the memory
    left = [member for member in members if member.recorder.ended_as is None]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        for member in half:
            member.recorder.rewind()
        if half:
            _train(half, device=device, stop=stop, checkpoint_every_s=checkpoint_every_s)


def _trainer(members: Sequence[_Member], *, device: torch.device, checkpoint_every_s: float) -> Trainer:
    """The trainer of these runs. A run whose checkpoint does not fit starts again from its first step."""
    while True:
        experiment = experiment_of([member.config for member in members], device)
        runs = [Run(m.config, m.recorder, m.recorder.checkpointed) for m in members]
        try:
            return Trainer(experiment, runs, checkpoint_every_s=checkpoint_every_s)
        except CheckpointError as error:
            members[error.index].recorder.discard_checkpoint(error)
