"""Claims and trains the runs of a pack, and records each run when it ends. Imports torch."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from imagination import registry
from imagination.schema import ConfigError, rebuild
from imagination.training.experiment import Experiment
from imagination.training.loop import Run, Trainer
from imagination.training.state import CheckpointError
from jobs.pack import Pack
from jobs.provenance import cpu_name
from jobs.recording import Report, RunRecorder
from results_db.contract import Attempt, Provenance, State, WorkerStore
from results_db.files import Files
from results_db.text import short

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 15.0
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
    pack: Pack,
    store: WorkerStore,
    *,
    device: torch.device,
    provenance: Provenance,
    report: Report,
    dispatched: Mapping[str, Attempt] | None = None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> dict[str, State]:
    """Trains the runs of a pack that are not complete and that no other worker trains.

    Args:
        pack: the runs, which are staged in the store.
        store: receives the runs' records.
        device: from `choose_device`.
        provenance: provenance of this worker's attempts.
        report: receives the events `started, progress, ended, skipped` of each run.
        dispatched: by run id, the attempt that this job was submitted for; other runs are skipped. Default: this
            worker claims every run's next attempt.
        stop: called before every step; if it returns True, every run is checkpointed and the training ends.
        checkpoint_every_s: seconds between checkpoints.

    Returns:
        By run id, the final state of this worker's attempt. Skipped runs are left out.
    """
    members = []
    for run in pack.runs:
        attempt = _begin(run.run_id, store, provenance, dispatched)
        if attempt is None:
            _skip(run.run_id, store, report)
            continue
        config: Any = rebuild(registry.config_type(str(run.config["experiment"])), run.config)
        recorder = RunRecorder(
            attempt, store, max_steps=config.total_steps, report=report, log_file=provenance.log
        )
        recorder.started()
        members.append(_Member(config, recorder))
    recorders = [member.recorder for member in members]
    if members:
        with Heartbeat(store, recorders) as heartbeat:
            _train(
                members,
                device=device,
                stop=lambda: stop() or heartbeat.all_superseded(),
                checkpoint_every_s=checkpoint_every_s,
            )
    return {r.attempt.run_id: r.state for r in recorders if r.state is not None}


def _begin(
    run_id: str, store: WorkerStore, provenance: Provenance, dispatched: Mapping[str, Attempt] | None
) -> Attempt | None:
    """The attempt that this worker makes; None if it must skip the run."""
    if dispatched is None:
        return store.start(run_id, provenance)
    attempt = dispatched.get(run_id)
    # `begin` returns None if the store cannot be reached; the attempt counts until the store says otherwise.
    return None if attempt is None or store.begin(attempt, provenance) is False else attempt


def _skip(run_id: str, store: WorkerStore, report: Report) -> None:
    if store.states([run_id]).get(run_id) is State.COMPLETED:
        # Left by an attempt that was killed right after its commit.
        Files(store.folder).checkpoint(run_id).unlink(missing_ok=True)
    report({"event": "skipped", "run_id": run_id})


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
                if member.recorder.state is None:
                    member.recorder.interrupt()
        return
    except Exception as error:
        if len(members) == 1:
            members[0].recorder.fail(error)
            return
        log.warning("a pack of %d runs failed and is trained again in halves: %s", len(members), error)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the pack may have been too large, and its halves need the memory
    left = [member for member in members if member.recorder.state is None]
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


class Heartbeat:
    """Sends a pack's heartbeats to the store from a thread, and learns which attempts are superseded."""

    def __init__(self, store: WorkerStore, recorders: Sequence[RunRecorder]) -> None:
        self._store = store
        self._recorders = recorders
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def all_superseded(self) -> bool:
        """Whether every attempt of this pack has ended or is superseded."""
        return all(r.superseded or r.state is not None for r in self._recorders)

    def _beat(self) -> None:
        pause_s = 0.5
        while not self._over.wait(pause_s := min(2 * pause_s, HEARTBEAT_EVERY_S)):  # soon at first
            for recorder in self._recorders:
                if recorder.state is None and not recorder.superseded and not self._beat_for(recorder):
                    break  # the other heartbeats would fail, too, and each may take long

    def _beat_for(self, recorder: RunRecorder) -> bool:
        """Sends one heartbeat; False if the store did not answer."""
        try:
            counts = self._store.heartbeat(recorder.attempt, step=recorder.step, progress=recorder.values)
        except Exception as error:  # an unreachable store must not end the training
            log.warning("run %s: heartbeat failed: %s", short(recorder.attempt.run_id), error)
            return False
        # A run that ended during this heartbeat also gets False, but is not superseded.
        if counts is False and recorder.state is None:
            recorder.superseded = True
        return counts is not None
