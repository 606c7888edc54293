"""Trains the runs of a pack, and records each run when it ends. Imports torch."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from imagination import registry, schema, ways
from imagination.function import FunctionRunner
from imagination.runner import CheckpointError, Needed, Run, Runner
from imagination.schema import ConfigError
from imagination.training import gpu, native
from jobs import needs
from jobs.needs import UnmetError
from jobs.pack import Task
from jobs.provenance import cpu_name
from jobs.recording import Report, RunRecorder
from results_db.contract import Provenance, State, StoreError
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
        if name.partition(":")[0] not in ("cpu", "cuda"):
            raise RuntimeError("there are cpu, cuda, cuda:1, ...")
        device = torch.device(name)
        torch.zeros(1, device=device)  # raises if there is no such device
    except (RuntimeError, AssertionError) as error:
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


def runner(experiment: str) -> Runner:
    """What trains the runs of an experiment.

    Raises:
        ConfigError: there is no such experiment.
    """
    declared = registry.declaration(experiment)
    if declared.function:
        return FunctionRunner(registry.load(declared.function))
    loaded: Runner = registry.load(declared.runner)
    return loaded


def kernels_name(device: torch.device) -> str:
    """Our kernels for convolutions here, with the threads of now, and `graphs` if asked for; `none` without any."""
    some = torch.zeros(0, device=device)
    names = ["triton"] if gpu.takes(some) else ["avx512"] if native.usable(some) else []
    if device.type == "cuda" and gpu.uses(ways.GRAPHS):
        names.append("graphs")
    return "+".join(names) or "none"


@dataclass(frozen=True)
class _Member:
    """A run that this worker trains: its config (the experiment's dataclass), its recorder, and what it builds on."""

    config: Any
    recorder: RunRecorder
    needs: Mapping[str, Needed] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    """See `Runner.train`."""

    device: torch.device
    stop: Callable[[], bool]
    checkpoint_every_s: float
    slots: int | None


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
        provenance: provenance of this worker's attempts; the kernels and the experiment's package are added.
        report: receives the events `started, progress, ended, skipped` of each run.
        stop: called before every step; if it returns True, every run is checkpointed and the training ends.
        checkpoint_every_s: seconds between checkpoints.

    Returns:
        By run id, the final state of this worker's attempt. Skipped runs are left out.
    """
    experiments = {str(run.config["experiment"]) for run in task.pack.runs}
    packages = dict(package for name in experiments if (package := registry.package(name)) is not None)
    versions = {**provenance.versions, **packages}
    asked = ways.asked()
    chosen = task.pack.ways if asked is None else asked
    with gpu.chosen(chosen):
        provenance = replace(provenance, kernels=kernels_name(device), versions=versions)
    report = _in_turn(report)
    begun = {attempt.run_id: attempt for attempt in delivery.begin(task.attempts, provenance)}
    members: list[_Member] = []
    recorders: list[RunRecorder] = []
    for run in task.pack.runs:
        if run.run_id not in begun:
            report({"event": "skipped", "run_id": run.run_id})
            continue
        config: Any = None
        wrong: ConfigError | None = None
        try:
            config = registry.rebuilt(run.config)
        except ConfigError as error:  # the code changed since the launch
            wrong = error
        recorder = RunRecorder(
            begun[run.run_id],
            delivery,
            max_steps=0 if config is None else config.total_steps,
            metrics=registry.declaration(str(run.config["experiment"])).metrics,
            report=report,
            log_file=provenance.log,
        )
        recorders.append(recorder)
        if recorder.ended_as is not None:
            continue  # its checkpoint cannot be read now
        recorder.started()
        if wrong is None:
            members.append(_Member(config, recorder))
        else:
            recorder.fail(wrong)
    members = _with_needs(members, delivery)

    def stops() -> bool:
        return stop() or all(r.superseded or r.ended_as is not None for r in recorders)

    if members:
        options = _Options(device, stops, checkpoint_every_s, task.pack.slots)
        with gpu.chosen(chosen):
            _train(members, options)
    for recorder in recorders:
        recorder.wait()
    return {r.attempt.run_id: r.state for r in recorders if r.state is not None}


def _in_turn(report: Report) -> Report:
    """Calls it from one thread at a time."""
    lock = threading.Lock()

    def tell(event: Mapping[str, object]) -> None:
        with lock:
            report(event)

    return tell


def _with_needs(members: Sequence[_Member], delivery: Delivery) -> list[_Member]:
    """The members with what they build on, without those whose needs are not there, which end here.

    Runs without needs do not wait for the store.
    """
    if not members:
        return []
    kind: type = type(members[0].config)
    if not any(getattr(member.config, key) for member in members for key in schema.needs(kind)):
        return list(members)
    found = []
    try:
        with delivery.reading() as store:
            looked_up = needs.find([member.config for member in members], store)
        for member, met in zip(members, looked_up, strict=True):
            if isinstance(met, UnmetError):
                member.recorder.hold_back(met)
            else:
                found.append(replace(member, needs=met))
    except StoreError as error:
        log.warning("%s", error)
        for member in members:
            if member.recorder.ended_as is None:
                member.recorder.interrupt()
        return []
    return found


def _train(members: Sequence[_Member], options: _Options) -> None:
    """Trains these runs together; after an error, again in halves, so that in the end only the faulty run fails."""
    try:
        if not _run(members, options):
            for member in members:
                if member.recorder.ended_as is None:
                    member.recorder.interrupt()
        return
    except Exception as error:
        if len(members) == 1:
            members[0].recorder.fail(error)
            return
        log.warning("a pack of %d runs failed and is trained again in halves: %s", len(members), error)
    if options.device.type == "cuda":
        torch.cuda.empty_cache()  # the pack may have been too large, and its halves need the memory
    left = [member for member in members if member.recorder.ended_as is None]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        for member in half:
            member.recorder.rewind()
        if half:
            _train(half, options)


def _run(members: Sequence[_Member], options: _Options) -> bool:
    """See `Runner.train`. A run whose checkpoint does not fit starts from the one before, or from its beginning."""
    while True:
        left = [member for member in members if member.recorder.ended_as is None]
        if not left:
            return True
        runs = [Run(m.config, m.recorder, m.recorder.checkpointed, m.needs) for m in left]
        trains = runner(members[0].config.experiment)
        try:
            return trains.train(
                runs,
                device=options.device,
                stop=options.stop,
                checkpoint_every_s=options.checkpoint_every_s,
                slots=options.slots,
            )
        except CheckpointError as error:
            left[error.index].recorder.discard_checkpoint(error)
