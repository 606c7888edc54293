"""The local launcher: one worker process per core or per GPU, which trains packs until none is left.

The launcher claims a pack's runs and gives it to a worker. Each worker has its own session and communicates over pipes
(`jobs.entry`). If a worker dies, its pack is trained again. If the launcher dies, its workers see the end of their
input, save and stop. If the store is away, the launcher waits for it, and its workers train on.
"""

import json
import math
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from imagination.schema import ConfigError
from jobs.gpus import gpu_names, visible_gpus
from jobs.pack import Pack, Task
from jobs.progress import Display
from jobs.provenance import cpu_name
from jobs.run_log import unusual
from results_db.contract import (
    Attempt,
    Ending,
    OtherStoreError,
    Reply,
    State,
    Store,
    StoreError,
    UnknownRunError,
)
from results_db.files import Files, own_tail
from results_db.spool.ingest import Ingested, ingest
from results_db.text import one_line, short

T = TypeVar("T")

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_SAVE_WITHIN_S = 20.0
_END_WITHIN_S = 10.0
_TRIES = 3  # of a pack whose worker died; then its runs are FAILED
_LOG_LINES = 5

STORE_WITHIN_S = 600.0
"""How long the launcher waits for a store that is away. Its workers need no store."""

_AGAIN_AFTER_S = 2.0


@dataclass(frozen=True)
class Resources:
    """The workers of this machine.

    Attributes:
        workers: the number of processes.
        threads: CPU threads of each.
        gpus: the GPU of each worker, as in CUDA_VISIBLE_DEVICES; empty means the CPU.
    """

    workers: int
    threads: int
    gpus: Sequence[str] = ()


def resources(*, cpus_per_task: int | None = None, workers: int | None = None) -> Resources:
    """One worker per GPU if there are any, else per `cpus_per_task` cores (by default 1)."""
    cores = usable_cores()
    if gpus := visible_gpus():
        count = workers or len(gpus)
        return Resources(count, max(cores // count, 1), tuple(gpus[i % len(gpus)] for i in range(count)))
    threads = min(cpus_per_task or 1, cores)
    return Resources(workers or cores // threads, threads)


def usable_cores() -> int:
    """The cores that this process may use, limited by a container's share of CPU time."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no control groups, or no limit: `max`
        quota, period = _CPU_MAX.read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def device_name(gpus: Sequence[str]) -> str | None:
    """The device of workers with these GPUs, as attempts record it; None: this machine's GPUs differ."""
    if not gpus or os.environ.get("IMAGINE_DEVICE") == "cpu":
        return cpu_name()
    names = set(gpu_names())
    return names.pop() if len(names) == 1 else None


@dataclass
class _Worker:
    """A worker process and its work.

    Attributes:
        index: its place among the workers, which chooses its GPU.
        process: the process.
        log: its log file.
        ready: whether it has loaded everything.
        refusal: why it cannot train; empty: it can, or it has not said.
        pack: the pack that is claimed for it, or that it trains.
        claimed: run id to claimed attempt, of the runs that have not ended.
        begun: the ids of those that train.
    """

    index: int
    process: "subprocess.Popen[str]"
    log: Path
    ready: bool = False
    refusal: str = ""
    pack: Pack | None = None
    claimed: dict[str, Attempt] | None = None
    begun: set[str] = field(default_factory=set)

    def dismiss(self) -> None:
        """Tell it that there is no more work."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead; the end of its output, read next, says so
            self.process.stdin.close()

    @property
    def log_line(self) -> str:
        """The last lines of its log that may tell what went wrong, in one line."""
        return " | ".join(unusual(own_tail(self.log) or "")[-_LOG_LINES:])

    def give(self, task: Task) -> None:
        """Send it its task. Another thread writes: a pipe may be full, and the worker stand still."""
        threading.Thread(target=self._send, args=(f"{task.encode()}\n",), daemon=True).start()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead; the end of its output, read next, says so
            self.process.stdin.write(line)
            self.process.stdin.flush()


class LocalLauncher:
    """Trains packs on this machine.

    Args:
        store: the store, where the runs are staged.
        machine: the number of workers and their resources.
        display: shows their progress.
        labels: run id to a short description.

    Attributes:
        states: run id to the state after its training here.
        failure: why runs could not begin, or None.
    """

    def __init__(
        self, store: Store, *, machine: Resources, display: Display, labels: Mapping[str, str]
    ) -> None:
        self._store = store
        self._files = Files(store.folder)
        self._machine = machine
        self._display = display
        self._labels = labels
        self._waiting: deque[Pack] = deque()
        self._open: set[str] = set()  # ids of runs whose packs wait or train
        self._idle: list[_Worker] = []  # until other workers have trained what the waiting packs need
        self._tries: dict[str, int] = {}
        self._workers: list[_Worker] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._asks: queue.SimpleQueue[Callable[[], Callable[[], None]]] = queue.SimpleQueue()
        self._unanswered = 0
        self._logs = self._files.logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self._started = 0
        self._can_train = False  # whether any worker was ready
        self._signals = 0
        self._stopping: float | None = None
        self.failure: str | None = None
        self.states: dict[str, State] = {}

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped it before all packs were done."""
        return self._stopping is not None

    def run(self, packs: Sequence[Pack]) -> None:
        """Train the packs, until they are done or a signal stops the launcher.

        Raises:
            ConfigError: the workers have no such device, or their logs cannot be written.
        """
        self._waiting.extend(packs)
        self._open = {run.run_id for pack in packs for run in pack.runs}
        previous = {number: signal.signal(number, self._signal) for number in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._ask_store, daemon=True).start()
        try:
            self._make_log_folder()
            for index in range(min(self._machine.workers, len(packs))):
                self._start_worker(index)
            self._work()
            if self._store.exists:
                # What the workers could not deliver.
                self._ask(lambda: ingest(self._store), then=self._say_left)
                self._work()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            # Workers are left only after an error here; they still get the time to save.
            self._terminate()
            deadline = time.monotonic() + _SAVE_WITHIN_S
            for worker in self._workers:
                _wait(worker.process, within_s=max(deadline - time.monotonic(), 0))

    def _make_log_folder(self) -> None:
        try:
            self._files.make_folder("logs", self._logs.name, mode=0o755)
        except OSError as error:
            raise ConfigError(f"the workers' logs cannot be written: {one_line(error)}") from None

    def _work(self) -> None:
        """Handle events until no worker is left, and no answer of the store is due; Ctrl-C twice waits for none."""
        while self._workers or (self._unanswered and self._signals < 2):
            with suppress(queue.Empty):
                self._events.get(timeout=0.2)()
            self._obey_signals()

    def _say_left(self, found: Ingested) -> None:
        for line in (*found.damaged, *found.left):
            self._display.say(line)

    def _ask(self, act: Callable[[], T], *, then: Callable[[T], None]) -> None:
        """Call `act`, which asks the store, in a thread of its own, and then `then` with what it returns."""
        self._unanswered += 1
        self._asks.put(lambda: self._patiently(act, then))

    def _ask_store(self) -> None:
        while True:
            self._events.put(partial(self._answered, self._asks.get()()))

    def _patiently(self, act: Callable[[], T], then: Callable[[T], None]) -> Callable[[], None]:
        """What to do when `act` has returned or failed. While the store is away, it is called again."""
        until, told = time.monotonic() + STORE_WITHIN_S, False
        while True:
            try:
                return partial(then, act())
            except StoreError as error:
                waits = self._stopping is None and time.monotonic() < until and self._store.exists
                if not waits or isinstance(error, UnknownRunError | OtherStoreError):
                    return partial(self._fail, str(error))
                if not told:
                    self._events.put(partial(self._display.say, f"{error}; waiting for the store"))
                told = True
                time.sleep(_AGAIN_AFTER_S)
            except BaseException as error:
                return partial(_throw, error)  # a bug: `run` must not wait for the answer

    def _answered(self, then: Callable[[], None]) -> None:
        self._unanswered -= 1
        then()

    def _fail(self, why: str) -> None:
        """Train no further packs, because the store stays away."""
        self.failure = why
        self._waiting.clear()
        self._wake()
        for worker in self._workers:
            if worker.claimed is None:
                worker.dismiss()

    def _terminate(self) -> None:
        """Tell all workers to save and end."""
        for worker in self._workers:
            worker.process.terminate()

    def _start_worker(self, index: int) -> None:
        log = self._logs / f"worker{self._started}.log"
        self._started += 1
        threads = str(self._machine.threads)
        environment = {
            **os.environ,
            "IMAGINE_DB": self._store.url,
            "IMAGINE_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "IMAGINE_LOG": str(log),
            "PYTHONSAFEPATH": "1",
            "IMAGINE_FILES": str(self._files.folder.resolve()),
        }
        if self._machine.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._machine.gpus[index]
        with log.open("xb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.entry"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C must reach only the launcher
            )
        worker = _Worker(index, process, log)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        """Put what to do at a worker's events, and at their end, into the queue."""
        assert worker.process.stdout is not None
        try:
            for line in worker.process.stdout:
                if line.endswith("\n"):  # else the worker died while it wrote the line
                    self._events.put(partial(self._handle, worker, json.loads(line)))
        finally:  # also after a line that cannot be read, or the launch would wait forever
            self._events.put(partial(self._ended, worker))

    def _signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1  # `run` obeys: a handler may interrupt anything

    def _obey_signals(self) -> None:
        """After the first signal all workers save and end. After a second one, or 20 s later, they are killed."""
        if self._signals and self._stopping is None:
            self._stopping = time.monotonic()
            self._waiting.clear()
            self._wake()
            self._terminate()
            self._display.stopping("stopping: saving the running runs (Ctrl-C again kills them)")
        late = self._stopping is not None and time.monotonic() - self._stopping > _SAVE_WITHIN_S
        if late or self._signals > 1:
            for worker in self._workers:
                worker.process.kill()

    def _handle(self, worker: _Worker, event: dict[str, Any]) -> None:
        if event["event"] == "refused":
            if not self._can_train:  # no worker can train as it was asked to
                raise ConfigError(event["error"])
            worker.refusal = event["error"]  # it ends now; what trains goes on
            return
        if event["event"] in ("ready", "idle"):
            self._can_train = True
            if worker.pack is not None:
                self._close(worker.pack)
            worker.ready, worker.pack, worker.claimed = True, None, None
            self._give_work(worker)
            return
        run_id = event["run_id"]
        if event["event"] == "started":
            worker.begun.add(run_id)
        elif event["event"] in ("ended", "skipped") and worker.claimed is not None:
            worker.claimed.pop(run_id, None)
        if event["event"] == "ended":
            self.states[run_id] = State(event["state"])
        self._display.event(event, self._labels.get(run_id, ""))

    def _give_work(self, worker: _Worker) -> None:
        """Claim the next pack for the worker whose needs are trained, or close its input."""
        ready = next((pack for pack in self._waiting if self._is_ready(pack)), None)
        if ready is None:
            if self._waiting:
                self._idle.append(worker)
            else:
                worker.dismiss()
            return
        self._waiting.remove(ready)
        worker.pack, worker.begun = ready, set()
        run_ids = [run.run_id for run in worker.pack.runs]
        claim = partial(self._store.claim, run_ids, launcher="local", retry_failed=True)
        self._ask(claim, then=partial(self._claimed, worker, worker.pack))

    def _is_ready(self, pack: Pack) -> bool:
        return all(self._open.isdisjoint(run.needs.values()) for run in pack.runs)

    def _close(self, pack: Pack) -> None:
        """Note that a pack is done, and give work to the workers that waited for it."""
        self._open.difference_update(run.run_id for run in pack.runs)
        self._wake()

    def _wake(self) -> None:
        """Give work to the idle workers again, or dismiss them."""
        idle, self._idle = self._idle, []
        for worker in idle:
            self._give_work(worker)

    def _claimed(self, worker: _Worker, pack: Pack, attempts: Sequence[Attempt]) -> None:
        """Give the worker its pack, unless it is gone or must stop."""
        if worker in self._workers and self._stopping is None:
            worker.claimed = {attempt.run_id: attempt for attempt in attempts}
            worker.give(Task(pack, tuple(attempts)))
            return
        self._withdraw(attempts)
        worker.dismiss()
        if self._stopping is None:
            self._waiting.appendleft(pack)
            self._start_worker(worker.index)

    def _ended(self, worker: _Worker) -> None:
        """A worker's output ended: it is done, or dead."""
        code = _wait(worker.process, within_s=_END_WITHIN_S)
        self._workers.remove(worker)
        self._idle = [one for one in self._idle if one is not worker]
        if not worker.ready and self._stopping is None:
            # The next worker would fail as well: the store, the installation or the machine is at fault.
            why = worker.refusal or worker.log_line
            self.failure = f"a worker could not start: {why}; its log: {worker.log}"
            self._waiting.clear()
            self._wake()
        elif worker.pack is not None and worker.claimed is not None and self._stopping is None:
            self._died(worker, worker.pack, code)
        claimed = (worker.claimed or {}).values()
        for attempt in claimed:
            if attempt.run_id in worker.begun:
                self._close_attempt(attempt, State.LOST, code, worker)
        self._withdraw([attempt for attempt in claimed if attempt.run_id not in worker.begun])
        if self._waiting:
            self._start_worker(worker.index)

    def _died(self, worker: _Worker, pack: Pack, code: int) -> None:
        """Train the pack of a dead worker again: first whole, then run by run. After that its run is FAILED."""
        tries = self._tries[pack.pack_id] = self._tries.get(pack.pack_id, 0) + 1
        again = tries < _TRIES
        plan = "training its runs again" if again else "giving up its run"
        self._display.say(f"a worker died ({_end(code)}), {plan}; its log: {worker.log}")
        if again:
            # Run by run, so a run that kills its process does not stop the other runs of its pack.
            self._waiting.extend([pack] if tries == 1 else [replace(pack, runs=(run,)) for run in pack.runs])
            return
        assert worker.claimed is not None
        for run_id in list(worker.claimed):
            if run_id in worker.begun:
                self._close_attempt(worker.claimed.pop(run_id), State.FAILED, code, worker)
            else:
                self.failure = f"run {short(run_id)}: its worker died before it began; {worker.log_line}"
        self._close(pack)

    def _withdraw(self, attempts: Sequence[Attempt]) -> None:
        """Take back claims of runs that no worker began."""
        if attempts:
            self._ask(lambda: self._store.withdraw(attempts), then=lambda _: None)

    def _close_attempt(self, attempt: Attempt, state: State, code: int, worker: _Worker) -> None:
        error = ": ".join(filter(None, [f"its worker died ({_end(code)})", worker.log_line]))
        ending = Ending(state, error, code, own_tail(worker.log))

        def end() -> Reply:
            ingest(self._store)  # its result may be in the spool
            return self._store.end(attempt, ending)

        def tell(reply: Reply) -> None:
            if reply:  # else its result was stored, or another attempt continues the run
                self.states[attempt.run_id] = state
                event = {"event": "ended", "run_id": attempt.run_id, "state": str(state), "error": error}
                self._display.event(event, self._labels.get(attempt.run_id, ""))

        self._ask(end, then=tell)


def _throw(error: BaseException) -> None:
    raise error


def _end(code: int) -> str:
    """How a process with this exit code ended."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _wait(process: "subprocess.Popen[str]", *, within_s: float) -> int:
    """The exit code of a process. It is killed if it does not end in time."""
    try:
        return process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
