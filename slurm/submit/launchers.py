"""Which launchers there are: `local`, `slurm`, and the files that a user keeps, one per cluster.

`launcher=mycluster` means the file `mycluster.yaml` in `~/.config/imagine-sweep/launchers` (IMAGINE_LAUNCHERS names
another folder): keys of hydra-submitit-launcher, and `name: local` where it is not Slurm's. What a spec or the command
line says goes before the file.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from imagination.schema import ConfigError, nearest, plain
from slurm.submit.launcher_keys import COUNTS, LAUNCHER_KEYS, ONE_PROCESS

LOCAL, SLURM = "local", "slurm"

_INTERPOLATED = "${"


@dataclass(frozen=True)
class Launcher:
    """A launcher that was chosen.

    Attributes:
        name: as it was named: `mycluster`.
        kind: `local` or `slurm`.
        settings: the keys that somebody gave.
    """

    name: str
    kind: str
    settings: Mapping[str, object]


def folder() -> Path:
    """Where a user's launcher files lie."""
    if named := os.environ.get("IMAGINE_LAUNCHERS"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "imagine-sweep" / "launchers"


def names() -> tuple[str, ...]:
    """What `launcher=...` chooses from."""
    own = sorted(path.stem for path in folder().glob("*.yaml"))
    return (LOCAL, SLURM, *(name for name in own if name not in (LOCAL, SLURM)))


def check_setting(key: str, value: object) -> object:
    """A launcher's setting, its name included.

    Raises:
        ConfigError: unknown launcher, a count that is none, or more than one process per job.
    """
    if key == "name" and value not in names():
        raise ConfigError(
            f"launcher: {plain(value)} is not one of {', '.join(names())}; "
            f"a launcher of your own is a file {folder()}/NAME.yaml",
            key=key,
        )
    if key in COUNTS and value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"launcher.{key}: {plain(value)} is not a whole number from 1", key=key)
    if key == "max_num_timeout" and value is not None and (type(value) is not int or value < 0):
        raise ConfigError(f"launcher.{key}: {plain(value)} is not a whole number from 0", key=key)
    if key in ONE_PROCESS and (value != 1 or isinstance(value, bool)):
        raise ConfigError(f"launcher.{key}: {plain(value)} is not 1; a pack is one process", key=key)
    return value


def choose(given: Mapping[str, object]) -> Launcher:
    """The launcher that a spec's `launcher:` and the command line name; default: `local`.

    Raises:
        ConfigError: see `check_setting`; or its file is wrong.
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
        ConfigError: it cannot be read, is no mapping, or has a key or value that is wrong.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        settings = YAML(typ="safe").load(path)
    except (OSError, YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no mapping; write keys such as 'partition: gpu', one a line")
    for key, value in settings.items():
        if key not in LAUNCHER_KEYS:
            hint = nearest(str(key), LAUNCHER_KEYS)
            raise ConfigError(
                f"{path}: unknown launcher key '{key}'{hint}; valid: {', '.join(LAUNCHER_KEYS)}"
            )
        if key == "name" and value not in (LOCAL, SLURM):
            raise ConfigError(f"{path}: name: {plain(value)} is not one of {LOCAL}, {SLURM}")
        try:
            check_setting(key, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return settings


@dataclass(frozen=True)
class Resources:
    """What every job of a launch asks Slurm for: all keys of hydra-submitit-launcher's `SlurmQueueConf`.

    Attributes:
        values: key to value; where nobody gave one, the plugin's default.
        given: the keys that somebody gave.
    """

    values: Mapping[str, Any]
    given: frozenset[str]

    @classmethod
    def of(cls, launcher: Launcher) -> "Resources":
        """The settings of a Slurm launcher, in the plugin's types.

        Raises:
            ConfigError: a value of another type.
        """
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        config = OmegaConf.structured(SlurmQueueConf)
        # `name` chooses the launcher; the jobs' own name must be told from every other dispatch's.
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
        if folder is not None and _INTERPOLATED in str(folder):
            raise ConfigError(
                f"launcher.submitit_folder: '{folder}' holds Hydra's ${{...}}, which has no value here; "
                "give a path, or leave it out",
                key="submitit_folder",
            )
        _set_signal_delay(values, given)
        return cls(
            {key: value for key, value in values.items() if key not in ("_target_", "name")}, frozenset(given)
        )

    @property
    def submitit_folder(self) -> str | None:
        """Where submitit shall put its files, if somebody said so."""
        return str(self.values["submitit_folder"]) if "submitit_folder" in self.given else None

    @property
    def max_num_timeout(self) -> int | None:
        """How often a job may run into its time limit; None, the default here: until its work is done."""
        return int(self.values["max_num_timeout"]) if "max_num_timeout" in self.given else None

    @property
    def setup(self) -> Sequence[str]:
        """The user's commands before the job."""
        return self.values["setup"] or ()

    @property
    def additional(self) -> dict[str, Any]:
        """What sbatch is told beside the keys."""
        return dict(self.values["additional_parameters"] or {})

    @property
    def asked(self) -> frozenset[str]:
        """Everything that somebody gave, by its name in sbatch with underscores."""
        return self.given | {key.replace("-", "_") for key in self.additional}

    @property
    def cpus(self) -> int:
        """Cores of a job."""
        return int(self.values["cpus_per_task"] or 1)

    @property
    def gpus(self) -> int:
        """GPUs of a job, as far as one can tell; 0: it asks for none."""
        values, more = self.values, self.additional
        counts = [values["gpus_per_node"], values["gpus_per_task"]]
        named = ("gpus", "gpus-per-node", "gpus_per_node", "gpus-per-task", "gpus_per_task")
        counts += [more.get(key) for key in named]
        # `gpu:h100:2`: the last part of each is its number, 1 if it is a name.
        for entry in str(values["gres"] or more.get("gres") or "").split(","):
            if entry.partition(":")[0].removeprefix("gres/") == "gpu":
                counts.append(entry.rpartition(":")[2])
        return max((_number(count) for count in counts if count), default=0)

    @property
    def unit(self) -> str:
        """What `hours` counts."""
        return "GPU-hours" if self.gpus else "core-hours"

    def hours(self, seconds: float) -> float:
        """GPU-hours of so many seconds of training; core-hours where the jobs ask for no GPU."""
        return seconds * (self.gpus or self.cpus) / 3600

    def submitit(self) -> dict[str, Any]:
        """The keywords of `AutoExecutor.update_parameters`, as the plugin itself makes them."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        base = {field.name for field in fields(BaseQueueConf)}
        own = {"submitit_folder", "max_num_timeout"}
        return {
            key if key in base else f"slurm_{key}": value
            for key, value in self.values.items()
            if key not in own and value is not None
        }


_OURS = {
    "job_name": "jobs have names by which they are found again",
    "array": "packs are the tasks of arrays",
    "output": "use launcher.submitit_folder",
    "error": "use launcher.submitit_folder",
    "open_mode": "a job that was requeued appends to its log",
    "nodes": "a pack is one process",
    "ntasks": "a pack is one process",
    "ntasks_per_node": "a pack is one process",
    "time": "use launcher.timeout_min",
    "signal": "use launcher.signal_delay_s",
    "wrap": "a job trains a pack",
}
"""Options of sbatch that the dispatch gives itself, and what to do instead."""


def _check_additional(given: Mapping[str, object]) -> None:
    """Raises ConfigError at an option of sbatch that would undo what a dispatch relies on."""
    for key in given:
        if (why := _OURS.get(str(key).replace("-", "_"))) is not None:
            raise ConfigError(
                f"launcher.additional_parameters: {key} cannot be given here; {why}",
                key="additional_parameters",
            )


def _set_signal_delay(values: dict[str, Any], given: Mapping[str, object]) -> None:
    """The signal comes after the job began: the plugin's 2 minutes ahead of the limit are too much for short limits.

    Raises:
        ConfigError: somebody asked for more than the limit.
    """
    limit_s = values["timeout_min"] * 60
    if "signal_delay_s" not in given:
        values["signal_delay_s"] = min(values["signal_delay_s"], limit_s // 3)
    elif values["signal_delay_s"] >= limit_s:
        raise ConfigError(
            f"launcher.signal_delay_s: {given['signal_delay_s']} is not below the time limit, "
            f"{limit_s} s; a job would be told to stop before it began",
            key="signal_delay_s",
        )


def _number(count: object) -> int:
    last = str(count).rpartition(":")[2]
    return int(last) if last.isdigit() else 1
