"""`python -m jobs.train gol=3 model_t=3 seed=1`: trains one run by hand and records it like a sweep's run.

Any Hydra command line works, also `--multirun` with submitit's launchers; `--db` names the store. A sweep's run with
the same config has the same run id, so it is trained only once. An interrupted run continues where it stopped.

Exit codes: 0 done, 1 the run failed or is trained elsewhere, 2 bad input, 130 interrupted (checkpoint kept).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imagination.schema import ConfigError, Scalar
from jobs import command_line, hydra_config
from jobs.config import RunSettings
from jobs.identity import planned, run_id
from jobs.pack import Pack, Task
from jobs.progress import Display
from jobs.provenance import lose_dead_attempts, provenance, slurm_job
from jobs.run_log import label
from results_db import console
from results_db.contract import State, StoreError
from results_db.files import Files
from results_db.spool.delivery import Delivery
from results_db.store.address import locate
from results_db.store.mounts import on_network
from results_db.store.sql import SqlStore, open_store
from results_db.text import one_line, short


def train(config: Mapping[str, Scalar], settings: RunSettings) -> int:
    """Trains the run of a complete config unless it is stored, prints its metrics, and returns the exit code.

    Raises:
        ConfigError: there is no such device.
        StoreError: see `open_store`.
    """
    from jobs import worker  # imports torch, so only after the input is checked

    identity = run_id(config)
    device = worker.choose_device(settings.device, threads=settings.threads)
    address = locate(settings.db)
    is_slurm_job = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    if is_slurm_job and address.file is not None and on_network(address.file):
        raise StoreError(
            f"{address.shown} is on a network file system, where jobs must not write SQLite; "
            "use imagine-sweep launch SPEC launcher=slurm, or PostgreSQL"
        )
    Files(address.folder).check_writable()
    with closing(open_store(settings.db, create=True)) as store:
        Files(store.folder).take(store.uuid)
        lose_dead_attempts(store)
        run = planned(config)
        store.stage([run])
        task = Task(Pack((run,)), tuple(store.claim([identity], launcher="hand", retry_failed=True)))
        about = label(config)
        with (
            _stop_on_signals() as stop,
            Display([[identity]]) as display,
            closing(Delivery(store.folder, lambda: store)) as delivery,
        ):
            ended = worker.run_pack(
                task,
                delivery,
                device=device,
                provenance=provenance(launcher="hand", device=worker.device_name(device), job_id=slurm_job()),
                report=lambda event: display.event({**event, "experiment": config["experiment"]}, about),
                stop=stop.is_set,
            )
        state = ended.get(identity) or store.states([identity])[identity]
        if not ended:
            sys.stderr.write(f"run {short(identity)}: nothing to do: {state}\n")
        _print_run(store, identity)
        if state is State.PREEMPTED:
            sys.stderr.write(f"run {short(identity)}: interrupted; the same command continues it\n")
            return console.INTERRUPTED
        return 0 if state is State.COMPLETED else console.SOME_FAILED


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM asks the trainer to save and stop; a second signal ends the process at once.

    Does nothing outside the main thread, where Python cannot handle signals.
    """
    stop = threading.Event()

    def once(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])

    listening = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if listening else ()
    previous = {number: signal.signal(number, once) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_run(store: SqlStore, identity: str) -> None:
    run = store.run(identity)
    print(f"run {short(identity)}  {run['state']}")
    for name, value in {"seconds": run["seconds"], **run["metrics"]}.items():
        if value is not None:
            print(f"  {name:<22} {value:.6g}")


@hydra.main(version_base="1.3", config_path=None, config_name=hydra_config.PRIMARY)
def _hydra_main(composed: DictConfig) -> None:
    # Caught here, because Hydra prints a page of text for an exception and exits with 1.
    try:
        config, settings = hydra_config.split(composed)
        code = train(config, settings)
    except (ConfigError, StoreError) as error:
        code = _complain(error)
    if code == console.INTERRUPTED:
        raise KeyboardInterrupt
    if code and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise hydra_config.TaskError(code)  # unlike an exit, it does not stop the other runs of the multirun
    if code:
        sys.exit(code)


def _complain(error: Exception) -> int:
    message = one_line(error)
    if isinstance(error, HydraException) and error.__cause__:  # the error says where, its cause says why
        message += f": {str(error.__cause__).splitlines()[0]}"
    sys.stderr.write(f"jobs.train: error: {message}\n")
    return console.BAD_INPUT


def main() -> None:
    """Runs the command."""
    # Otherwise the jobs of a multirun would import modules from the folder that they were submitted from.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors and prints no page
    try:
        options, overrides = command_line.parse(sys.argv[1:])
        experiment = command_line.check(overrides)
        sys.argv[1:] = [*options, *overrides]  # Hydra accepts no options between overrides
        hydra_config.register(experiment)
        _hydra_main()
    except (ConfigError, StoreError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_complain(error))
    except hydra_config.TaskError as failed:
        sys.exit(failed.exit_code)
    except KeyboardInterrupt:
        sys.exit(console.INTERRUPTED)


if __name__ == "__main__":
    main()
