"""`python -m jobs.train gol=3 model_t=3 seed=1`: one run by hand, recorded like any other.

Any Hydra command line works, `--multirun` with submitit's launchers included; `--db` names the store.
The same run of a sweep has the same run id, so it is trained once. An interrupted run goes on where it stopped.

Exit codes: 0 done, 1 the run failed or is trained elsewhere, 2 bad input, 130 interrupted (checkpoint kept).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imagination.schema import ConfigError, Scalar
from jobs import command_line, hydra_config
from jobs.config import RunSettings, resolve
from jobs.entry import Stop
from jobs.identity import SHORT, run_id
from jobs.pack import Pack
from jobs.progress import Display
from jobs.provenance import lose_dead_attempts, provenance, slurm_job
from results_db import console
from results_db.columns import METRIC_COLUMNS
from results_db.contract import PlannedRun, State, StoreError
from results_db.files import Files
from results_db.spool.worker_store import SpooledStore
from results_db.store.address import locate
from results_db.store.mounts import on_network
from results_db.store.sql import SqlStore, open_store
from results_db.text import cell_text, one_line


def train(config: Mapping[str, Scalar], settings: RunSettings) -> int:
    """Train one run, or tell what is stored of it; prints its metrics. The exit code.

    Args:
        config: a complete config.
        settings: store, device and threads.

    Raises:
        ConfigError: there is no such device.
        StoreError: see `open_store`.
    """
    from jobs import worker  # torch: not before the input is known to be good

    identity = run_id(config)
    device = worker.choose_device(settings.device, threads=settings.threads)
    address = locate(settings.db)
    if (
        os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        and address.file is not None
        and on_network(address.file)
    ):
        raise StoreError(
            f"{address.shown} lies on a network file system, so jobs do not write it; "
            "use imagine-sweep launch SPEC launcher=slurm, or PostgreSQL"
        )
    Files(address.folder).check_writable()
    store = open_store(settings.db, create=True)
    try:
        lose_dead_attempts(store)
        run = PlannedRun(identity, config)
        store.stage([run])
        label = _label(config)
        with _stop_on_signals() as stop, Display(total=1) as display:
            ended = worker.run_pack(
                Pack((run,)),
                SpooledStore(store.folder, lambda: store),
                device=device,
                provenance=provenance(launcher="hand", device=worker.device_name(device), job_id=slurm_job()),
                report=lambda event: display.event(event, label),
                stop=stop,
            )
        state = ended.get(identity) or store.states([identity])[identity]
        if not ended:
            sys.stderr.write(f"run {identity[:SHORT]}: nothing to do: {state}\n")
        _print_run(store, identity)
        return _exit_code(state)
    finally:
        store.close()


@contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the trainer to save and end; a second one ends it at once.

    Only the main thread may listen to signals.
    """
    stop = Stop()

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


def _label(config: Mapping[str, Scalar]) -> str:
    """What tells this run from the preset's."""
    usual = resolve(str(config["experiment"]), str(config["preset"]))
    told = {key: value for key, value in config.items() if value != usual[key] or key == "seed"}
    return " ".join(f"{key}={cell_text(value)}" for key, value in told.items())


def _exit_code(state: State) -> int:
    if state is State.PREEMPTED:
        return console.INTERRUPTED
    return 0 if state is State.COMPLETED else console.SOME_FAILED


def _print_run(store: SqlStore, identity: str) -> None:
    run = store.run(identity)
    print(f"run {identity[:SHORT]}  {run['state']}")
    measured = {"seconds": run["seconds"], **run["metrics"]}
    for name in [name for name in ("seconds", *METRIC_COLUMNS) if measured.get(name) is not None]:
        print(f"  {name:<22} {measured[name]:.6g}")


@hydra.main(version_base="1.3", config_path=None, config_name=hydra_config.PRIMARY)
def _hydra_main(composed: DictConfig) -> None:
    # Hydra turns an exception of the task into a page and exit code 1, so a person's mistakes are caught inside it.
    try:
        config, settings = hydra_config.split(composed)
        code = train(config, settings)
    except (ConfigError, StoreError) as error:
        code = _complain(error)
    if code == console.INTERRUPTED:
        raise KeyboardInterrupt
    if code and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise hydra_config.TaskError(code)  # unlike an exit, it lets the other runs of the multirun go on
    if code:
        sys.exit(code)


def _complain(error: Exception) -> int:
    # Hydra says where, and its cause what.
    cause = (
        str(error.__cause__).splitlines()[0] if isinstance(error, HydraException) and error.__cause__ else ""
    )
    sys.stderr.write(f"jobs.train: error: {one_line(error)}{f': {cause}' if cause else ''}\n")
    return console.BAD_INPUT


def main() -> None:
    """The command."""
    # Jobs of a multirun on a cluster: their Python would put the folder they were submitted from first on its path.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would answer with a page
    try:
        options, overrides = command_line.parse(sys.argv[1:])
        command_line.check(overrides)
        sys.argv[1:] = [*options, *overrides]  # Hydra takes no options between overrides
        hydra_config.register()
        _hydra_main()
    except (ConfigError, StoreError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_complain(error))
    except hydra_config.TaskError as failed:
        sys.exit(failed.exit_code)
    except KeyboardInterrupt:
        sys.exit(console.INTERRUPTED)


if __name__ == "__main__":
    main()
