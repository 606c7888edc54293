"""`python -m jobs.train gol=3 model_t=3 seed=1`: one run by hand, recorded like any other.

Any Hydra command line works, `--multirun hydra/launcher=submitit_slurm` included. `--db` is short for `run.db=`.
The same run of a sweep has the same run id, so it is trained once. An interrupted run goes on where it stopped.

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted (checkpoint kept).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imagination import registry
from imagination.schema import ConfigError, Scalar, coerce, keys
from jobs import hydra_config
from jobs.config import RunSettings, resolve
from jobs.entry import Stop
from jobs.files import Files
from jobs.identity import SHORT, run_id
from jobs.pack import Pack
from jobs.progress import Display
from jobs.provenance import lose_dead_attempts, provenance
from results_db import console
from results_db.contract import PlannedRun, State, StoreError
from results_db.store import SqlStore, open_store
from results_db.words import one_line


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
    store = open_store(settings.db, create=True)
    try:
        Files(store.folder).check_writable()
        lose_dead_attempts(store)
        run = PlannedRun(identity, config)
        store.stage([run])
        label = _label(config)
        with _stop_on_signals() as stop, Display(total=1) as display:
            ended = worker.run_pack(
                Pack((run,)),
                store,
                device=device,
                provenance=provenance(launcher="hand", device=worker.device_name(device)),
                report=lambda event: display.event(event, label),
                stop=stop,
            )
        state = ended.get(identity) or store.states([identity])[identity]
        if not ended:
            sys.stderr.write(f"run {identity[:SHORT]}: nothing to do: {state}\n")
        _print_metrics(store, identity)
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
    return " ".join(f"{key}={value}" for key, value in config.items() if value != usual[key] or key == "seed")


def _exit_code(state: State) -> int:
    if state is State.PREEMPTED:
        return console.INTERRUPTED
    return 0 if state is State.COMPLETED else 1


def _print_metrics(store: SqlStore, identity: str) -> None:
    frame = store.runs()
    row = frame[frame["run_id"] == identity].iloc[0]
    config_and_run = set(keys(registry.config_type(str(row["experiment"])))) | {"attempts"}
    print(f"run {identity[:SHORT]}  {row['state']}")
    for name, value in row.items():
        if name not in config_and_run and isinstance(value, float) and value == value:
            print(f"  {name:<22} {value:.6g}")


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would answer with a page: wrong syntax, an unknown key, a value that is not allowed.

    Raises:
        ConfigError: in one line.
    """
    chosen = {}
    for argument in arguments:
        if argument.startswith("-"):
            continue
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"'{argument}' is not KEY=VALUE in Hydra's grammar: {reason}") from None
        key = str(override.key_or_group)
        if key.split(".")[0].split("/")[0] not in ("hydra", "run"):
            chosen[key] = override
    named = chosen.get("experiment")
    experiment = str(named.value()) if named else next(iter(registry.EXPERIMENTS))
    config_type = registry.config_type(experiment)
    for key, override in chosen.items():
        if override.is_sweep_override() and key in keys(config_type):
            continue  # several values, for a multirun: each is checked when its run is composed
        value = coerce(config_type, key, override.value())
        if key == "preset":
            registry.preset(experiment, str(value))


def _with_db(arguments: Sequence[str]) -> list[str]:
    """`--db X` and `--db=X` as the override that they are short for.

    Raises:
        ConfigError: `--db` without a value.
    """
    result = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--db" or argument.startswith("--db="):
            value = next(rest, None) if argument == "--db" else argument[len("--db=") :]
            if not value:
                raise ConfigError("--db needs a URL or a path that ends in .db")
            result.append(f"run.db='{value}'")
        else:
            result.append(argument)
    return result


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
    sys.stderr.write(f"jobs.train: error: {one_line(error)}\n")
    return console.BAD_INPUT


def main() -> None:
    """The command."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would answer with a page
    try:
        arguments = _with_db(sys.argv[1:])
        check_overrides(arguments)
        # Hydra takes no options between overrides.
        sys.argv[1:] = sorted(arguments, key=lambda argument: "=" in argument and argument[0] != "-")
        hydra_config.register()
        _hydra_main()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_complain(error))
    except hydra_config.TaskError as failed:
        sys.exit(failed.exit_code)
    except KeyboardInterrupt:
        sys.exit(console.INTERRUPTED)


if __name__ == "__main__":
    main()
