"""Trains one pack: claims its runs, trains them, records each when it ends. The only module here with torch."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from imagination import registry
from imagination.schema import ConfigError, build
from imagination.training.experiment import Experiment
from imagination.training.loop import Run, Trainer
from imagination.training.state import CheckpointError
from jobs.pack import Pack
from jobs.provenance import cpu_name
from jobs.recording import Report, RunRecorder
from results_db.contract import Attempt, PlannedRun, Provenance, State, WorkerStore
from results_db.files import Files
from results_db.text import short

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 15.0
CHECKPOINT_EVERY_S = 60.0


def choose_device(name: str = "auto", *, threads: int = 0) -> torch.device:
    """The device to train on: a GPU if there is one, else the CPU with this many threads (0: torch's choice).

    On a GPU float32 is made to mean float32 and the convolutions deterministic, so that a resumed run is the
    undisturbed one.

    Raises:
        ConfigError: there is no such device, or no such number of threads.
    """
    if threads < 0:
        raise ConfigError(f"threads: {threads} is below 0; 0 leaves the choice to torch")
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)  # a device that is not there shall be noticed here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"device: '{name}' cannot be used here; try auto or cpu ({reason})") from None
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def device_name(device: torch.device) -> str:
    """A person's name of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def experiment_of(configs: Sequence[Any], device: torch.device) -> Experiment:
    """What the trainer runs for these configs (of one experiment, with equal `pack_keys`)."""
    experiment: Experiment = registry.load(registry.entry(configs[0].experiment).experiment)(configs, device)
    return experiment


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
    """Train the runs of a pack that nobody else has and that are not complete.

    Args:
        pack: the runs.
        store: where they are staged, and where their records go.
        device: from `choose_device`.
        provenance: who this is.
        report: receives the events `started, progress, ended, skipped` of each run.
        dispatched: run id to the attempt that this job was submitted for; a run without one is skipped. Default:
            every run's next attempt is asked of the store.
        stop: asked before every step; True saves every run and ends.
        checkpoint_every_s: seconds between checkpoints.

    Returns:
        run id to the state in which this worker left it; runs that were skipped are not in it.
    """
    recorders: dict[str, RunRecorder] = {}
    for run in pack.runs:
        attempt = _begin(run.run_id, store, provenance, dispatched)
        if attempt is None:
            _skip(run.run_id, store, report)
            continue
        recorders[run.run_id] = RunRecorder(
            attempt, store, max_steps=_built(run).total_steps, report=report, log_file=provenance.log
        )
        recorders[run.run_id].started()
    runs = [run for run in pack.runs if run.run_id in recorders]
    if not runs:
        return {}
    with Heartbeat(store, list(recorders.values())) as heartbeat:
        _train(
            runs,
            recorders,
            device=device,
            stop=lambda: stop() or heartbeat.all_superseded(),
            checkpoint_every_s=checkpoint_every_s,
        )
    return {run_id: recorder.state for run_id, recorder in recorders.items() if recorder.state is not None}


def _begin(
    run_id: str, store: WorkerStore, provenance: Provenance, dispatched: Mapping[str, Attempt] | None
) -> Attempt | None:
    """The attempt that this worker makes; None if there is nothing to do."""
    if dispatched is None:
        return store.start(run_id, provenance)
    attempt = dispatched.get(run_id)
    # None: the store is away, and until it says otherwise the attempt counts.
    return None if attempt is None or store.begin(attempt, provenance) is False else attempt


def _built(run: PlannedRun) -> Any:
    """A run's config, as its experiment's dataclass."""
    return build(registry.config_type(str(run.config["experiment"])), run.config)


def _skip(run_id: str, store: WorkerStore, report: Report) -> None:
    if store.states([run_id]).get(run_id) is State.COMPLETED:
        # An attempt that was killed right after its commit left it behind.
        Files(store.folder).checkpoint(run_id).unlink(missing_ok=True)
    report({"event": "skipped", "run_id": run_id})


def _train(
    runs: Sequence[PlannedRun],
    recorders: dict[str, RunRecorder],
    *,
    device: torch.device,
    stop: Callable[[], bool],
    checkpoint_every_s: float,
) -> None:
    """Train these runs together; if that goes wrong, in halves, until the run at fault fails alone."""
    members = [recorders[run.run_id] for run in runs]
    if _train_together(runs, members, device=device, stop=stop, checkpoint_every_s=checkpoint_every_s):
        return
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what failed was perhaps too large, and the halves need its room
    left = [run for run in runs if recorders[run.run_id].state is None]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        for run in half:
            recorders[run.run_id].rewind()
        if half:
            _train(half, recorders, device=device, stop=stop, checkpoint_every_s=checkpoint_every_s)


def _train_together(
    runs: Sequence[PlannedRun],
    recorders: Sequence[RunRecorder],
    *,
    device: torch.device,
    stop: Callable[[], bool],
    checkpoint_every_s: float,
) -> bool:
    """Train these runs as one pack. False if it raised and there is more than one to blame."""
    try:
        trainer = _trainer(runs, recorders, device=device, checkpoint_every_s=checkpoint_every_s)
        if not trainer.train(stop=stop):
            for recorder in recorders:
                if recorder.state is None:
                    recorder.interrupt()
    except Exception as error:
        if len(runs) > 1:
            log.warning("a pack of %d runs, to be trained in halves: %s", len(runs), error)
            return False
        recorders[0].fail(error)
    return True


def _trainer(
    runs: Sequence[PlannedRun],
    recorders: Sequence[RunRecorder],
    *,
    device: torch.device,
    checkpoint_every_s: float,
) -> Trainer:
    """The runs' trainer; a checkpoint that does not fit costs its own run's steps alone."""
    configs = [_built(run) for run in runs]
    while True:
        members = [
            Run(config, recorder, recorder.checkpointed)
            for config, recorder in zip(configs, recorders, strict=True)
        ]
        try:
            return Trainer(experiment_of(configs, device), members, checkpoint_every_s=checkpoint_every_s)
        except CheckpointError as error:
            recorders[error.index].discard_checkpoint(error)


class Heartbeat:
    """Tells the store from a thread of its own that a pack's attempts are alive, and learns if they still count."""

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
        """No attempt of this pack counts any more."""
        return all(r.superseded or r.state is not None for r in self._recorders)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_EVERY_S):
            for recorder in self._recorders:
                if recorder.state is None and not recorder.superseded and not self._beat_for(recorder):
                    break  # the store is away for the others as well, and each question may take long

    def _beat_for(self, recorder: RunRecorder) -> bool:
        """False if the store did not answer."""
        try:
            counts = self._store.heartbeat(recorder.attempt, step=recorder.step, progress=recorder.values)
        except Exception as error:  # a store that is away for a while must not end the training
            log.warning("heartbeat of run %s: %s", short(recorder.attempt.run_id), error)
            return False
        # The run may have ended while its heartbeat was under way; then False says nothing.
        if counts is False and recorder.state is None:
            recorder.superseded = True
        return counts is not None
