"""The launchers: `local`, `slurm`, and a user's own files, one per cluster.

`launcher=mycluster` names the file `mycluster.yaml` in `~/.config/imagine-sweep/launchers`, or in the folder of
IMAGINE_LAUNCHERS. It holds keys of hydra-submitit-launcher, and `name: local` if it is not for Slurm. A spec and the
command line override the file.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError, check_aliases, nearest, plain
from results_db.text import one_line

LOCAL, SLURM = "local", "slurm"

LAUNCHER_KEYS = (
    *("name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"),
    *("stderr_to_stdout", "submitit_folder", "partition", "qos", "comment", "constraint", "exclude", "gres"),
    *("cpus_per_gpu", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "account", "signal_delay_s"),
    *("max_num_timeout", "additional_parameters", "array_parallelism", "setup"),
)
"""The keys of a `launcher:` section. They are listed because importing the plugin is slow; a test compares them."""

_LEAST = {"timeout_min": 1, "cpus_per_task": 1, "mem_gb": 1, "array_parallelism": 1, "max_num_timeout": 0}
"""Keys whose value is a whole number or nothing, and the smallest number."""

_ONE_PROCESS = ("nodes", "tasks_per_node")
"""Keys that stay 1, because a pack is one process."""


@dataclass(frozen=True)
class Launcher:
    """The launcher of a launch.

    Attributes:
        name: the given name, such as `mycluster`.
        kind: `local` or `slurm`.
        settings: the given keys.
    """

    name: str
    kind: str
    settings: Mapping[str, object]


def folder() -> Path:
    """The folder of a user's launcher files."""
    if named := os.environ.get("IMAGINE_LAUNCHERS"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "imagine-sweep" / "launchers"


def names() -> tuple[str, ...]:
    """The valid values of `launcher=...`."""
    own = sorted(path.stem for path in folder().glob("*.yaml"))
    return (LOCAL, SLURM, *(name for name in own if name not in (LOCAL, SLURM)))


def check_setting(key: str, value: object) -> object:
    """The value of a launcher key, if it is valid.

    Raises:
        ConfigError: the key or launcher is unknown, a count is not a count, or a job has more than one process.
    """
    if key not in LAUNCHER_KEYS:
        hint = nearest(key, LAUNCHER_KEYS)
        raise ConfigError(f"unknown launcher key '{key}'{hint}; valid: {', '.join(LAUNCHER_KEYS)}", key=key)
    if key == "name" and value not in names():
        raise ConfigError(
            f"launcher: {plain(value)} is not one of {', '.join(names())}; "
            f"for a launcher of your own, write the file {folder()}/NAME.yaml",
            key=key,
        )
    if key in _LEAST and value is not None and (type(value) is not int or value < _LEAST[key]):
        raise ConfigError(f"launcher.{key}: {plain(value)} is not a whole number from {_LEAST[key]}", key=key)
    if key in _ONE_PROCESS and (value != 1 or isinstance(value, bool)):
        raise ConfigError(f"launcher.{key}: {plain(value)} is not 1; a pack is one process", key=key)
    return value


def choose(given: Mapping[str, object]) -> Launcher:
    """The launcher that a spec's `launcher:` and the command line name; `local` by default.

    Raises:
        ConfigError: see `check_setting`; or the launcher's file is wrong.
    """
    name = str(check_setting("name", given.get("name", LOCAL)))
    own = {key: value for key, value in given.items() if key != "name"}
    if name in (LOCAL, SLURM):
        return Launcher(name, name, own)
    kept = _read(folder() / f"{name}.yaml")
    kind = kept.pop("name", SLURM)
    return Launcher(name, str(kind), {**kept, **own})


def _read(path: Path) -> dict[str, object]:
    """The settings of a launcher file.

    Raises:
        ConfigError: the file cannot be read, is not a mapping, or has a wrong key or value.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        settings = YAML(typ="safe").load(path)
        check_aliases(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {one_line(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: not a mapping; write one key per line, such as 'partition: gpu'")
    for key, value in settings.items():
        if key == "name" and value not in (LOCAL, SLURM):
            raise ConfigError(f"{path}: name: {plain(value)} is not one of {LOCAL}, {SLURM}")
        try:
            check_setting(str(key), value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return settings


@dataclass(frozen=True)
class Resources:
    """What each job of a launch asks Slurm for: the keys of hydra-submitit-launcher's `SlurmQueueConf`.

    Attributes:
        values: the given values, and the plugin's defaults for the other keys.
        given: the given keys.
    """

    values: Mapping[str, Any]
    given: frozenset[str]

    @classmethod
    def of(cls, launcher: Launcher) -> "Resources":
        """The settings of a Slurm launcher, in the plugin's types.

        Raises:
            ConfigError: a value is wrong or of the wrong type.
        """
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        config = OmegaConf.structured(SlurmQueueConf)
        # `name` chooses the launcher; each dispatch gives its jobs a name of its own.
        given = {key: value for key, value in launcher.settings.items() if key != "name"}
        for key, value in given.items():
            try:
                config[key] = value
            except OmegaConfBaseException as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(f"launcher.{key}: {plain(value)}: {reason}", key=key) from None
        values: Any = OmegaConf.to_container(config, resolve=False)
        _check_additional(values["additional_parameters"] or {})
        folder = given.get("submitit_folder")
        if folder is not None and "${" in str(folder):
            raise ConfigError(
                f"launcher.submitit_folder: '{folder}' contains Hydra's ${{...}}, which has no value here; "
                "give a path, or leave the key out",
                key="submitit_folder",
            )
        _set_signal_delay(values, given)
        return cls(
            {key: value for key, value in values.items() if key not in ("_target_", "name")}, frozenset(given)
        )

    @property
    def submitit_folder(self) -> str | None:
        """The given folder for submitit's files, or None."""
        return str(self.values["submitit_folder"]) if "submitit_folder" in self.given else None

    @property
    def max_num_timeout(self) -> int | None:
        """How often a job may reach its time limit; None, the default here, means no limit."""
        return int(self.values["max_num_timeout"]) if "max_num_timeout" in self.given else None

    @property
    def setup(self) -> Sequence[str]:
        """The user's shell commands before the job."""
        return self.values["setup"] or ()

    @property
    def additional(self) -> dict[str, Any]:
        """Further options of sbatch."""
        return dict(self.values["additional_parameters"] or {})

    @property
    def asked(self) -> frozenset[str]:
        """The given keys and options, as in sbatch but with underscores."""
        return self.given | {key.replace("-", "_") for key in self.additional}

    @property
    def cpus(self) -> int:
        """Cores of a job."""
        return int(self.values["cpus_per_task"] or 1)

    @property
    def gpus(self) -> int:
        """GPUs of a job; 0 if it asks for none."""
        more = {key.replace("-", "_"): value for key, value in self.additional.items()}
        counts = [asked.get(key) for asked in (self.values, more) for key in _GPU_KEYS]
        gres = str(self.values["gres"] or more.get("gres") or "").split(",")
        counts += [entry for entry in gres if entry.partition(":")[0].removeprefix("gres/") == "gpu"]
        return max((_number(count) for count in counts if count), default=0)

    def submitit(self) -> dict[str, Any]:
        """The keywords of `AutoExecutor.update_parameters`, as the plugin would make them."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        base = {field.name for field in fields(BaseQueueConf)}
        own = {"submitit_folder", "max_num_timeout"}
        return {
            key if key in base else f"slurm_{key}": value
            for key, value in self.values.items()
            if key not in own and value is not None
        }


_GPU_KEYS = ("gpus", "gpus_per_node", "gpus_per_task")

_OURS = {
    "job_name": "a unique name finds the jobs again after a crash",
    "array": "packs are the tasks of arrays",
    "output": "use launcher.submitit_folder",
    "error": "use launcher.submitit_folder",
    "open_mode": "a requeued job appends to its log",
    "nodes": "a pack is one process",
    "ntasks": "a pack is one process",
    "ntasks_per_node": "a pack is one process",
    "time": "use launcher.timeout_min",
    "signal": "use launcher.signal_delay_s",
    "wrap": "a job trains a pack",
}
"""Options of sbatch that the dispatch sets itself, with the reason or the key to use instead."""


def _check_additional(given: Mapping[str, object]) -> None:
    """Raises ConfigError for an option that the dispatch sets itself."""
    for key in given:
        if (why := _OURS.get(str(key).replace("-", "_"))) is not None:
            problem = f"launcher.additional_parameters: {key} cannot be given here; {why}"
            raise ConfigError(problem, key="additional_parameters")


def _set_signal_delay(values: dict[str, Any], given: Mapping[str, object]) -> None:
    """Shorten the plugin's default, 2 minutes before the time limit, for short limits.

    Raises:
        ConfigError: the given delay is not below the limit.
    """
    limit_s = values["timeout_min"] * 60
    if "signal_delay_s" not in given:
        values["signal_delay_s"] = min(values["signal_delay_s"], limit_s // 3)
    elif values["signal_delay_s"] >= limit_s:
        raise ConfigError(
            f"launcher.signal_delay_s: {given['signal_delay_s']} is not below the time limit, {limit_s} s, "
            "so jobs would stop before they begin; give a smaller delay",
            key="signal_delay_s",
        )


def _number(count: object) -> int:
    """The number in `2`, `h100:2` or `gpu:h100:2`; 1 if there is none."""
    last = str(count).rpartition(":")[2]
    return int(last) if last.isdigit() else 1
