"""The configs of `jobs.config`, declared to Hydra for `python -m jobs.train preset=paper_bce gol=3 seed=1`."""

from dataclasses import field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from imagination import registry
from imagination.declaration import Declaration
from imagination.schema import Scalar
from jobs.config import RunSettings, resolve

PRIMARY = "train"
"""Name of the primary config."""

DEFAULT_EXPERIMENT = registry.names()[0]


def _defaults(experiment: str) -> list[Any]:
    """Hydra's defaults list. A preset's values depend on the experiment: a specialised config in Hydra's manual."""
    return [
        {"experiment": DEFAULT_EXPERIMENT},
        {"preset": registry.declaration(experiment).default_preset},
        {"preset_values": "${experiment}_${preset}"},
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
        "_self_",
    ]


_HELP = """\
python -m jobs.train [KEY=VALUE]... [--db URL|PATH] [--multirun] [Hydra's options]

Train one run and record it in the store, under the same run id as in a sweep. Run the same command again to continue an
interrupted run. --db is a URL or a path that ends in .db [IMAGINE_DB; default: sqlite:///outputs/imagine.db].

  python -m jobs.train gol=3 model_t=3 seed=1
  python -m jobs.train preset=paper_bce gol=2 model_t=2 run.device=cpu run.threads=2
  python -m jobs.train --multirun seed=1,2,3 --db x.db

Exit codes: 0 done, 1 the run failed or is trained elsewhere, 2 bad input, 130 interrupted (checkpoint kept).

Keys and their values in this command (`run` holds how the run is executed, the other keys are its config):

$CONFIG
"""

_HYDRA = {
    "run": {"dir": "."},
    "output_subdir": None,
    "sweep": {"dir": "outputs/multirun/${now:%Y-%m-%d_%H-%M-%S}"},
    "job": {"chdir": False},
    "help": {"app_name": "python -m jobs.train", "template": _HELP},
}
"""Hydra writes no files of its own and does not change the working directory."""


class TaskError(Exception):
    """A run that Hydra started was not completed. The other runs of the same multirun continue."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def register(experiment: str = DEFAULT_EXPERIMENT) -> None:
    """Puts the primary config and its groups into Hydra's ConfigStore; may be called again.

    The experiment is the one that the command line names, whose default preset is Hydra's.
    """
    store = ConfigStore.instance()
    for declared in registry.declarations():
        node = _structured(declared)
        store.store(group="experiment", name=declared.name, node=node, package="_global_")
        for preset, values in declared.presets.items():
            store.store(group="preset", name=preset, node={"preset": preset}, package="_global_")
            name = f"{declared.name}_{preset}"
            store.store(group="preset_values", name=name, node=dict(values), package="_global_")
    store.store(name=PRIMARY, node={"defaults": _defaults(experiment), "hydra": _HYDRA})


def _structured(declared: Declaration) -> type:
    """A dataclass of the experiment's config keys and `run`, not frozen, so that presets can change its values."""
    own = {"experiment": declared.name}
    columns = [
        (key.name, key.type, field(default=own.get(key.name, key.default))) for key in fields(declared.config)
    ]
    settings = ("run", RunSettings, field(default_factory=RunSettings))
    return make_dataclass(declared.config.__name__, [*columns, settings])


def split(composed: DictConfig) -> tuple[dict[str, Scalar], RunSettings]:
    """The checked config and the execution settings of a config that Hydra composed. Hydra itself checks only types.

    Raises:
        ConfigError: a value is out of bounds, or values contradict each other.
    """
    values = {str(key): value for key, value in composed.items() if key != "run"}
    settings = OmegaConf.to_object(composed.run)
    assert isinstance(settings, RunSettings)
    return resolve(composed.experiment, composed.preset, values), settings
