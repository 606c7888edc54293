"""Config resolution, and that Hydra composes the same."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from imagination import registry
from imagination.life.config import (
    LIFE_COUNT_PRESETS,
    LIFE_STATE_PRESETS,
    LifeConfig,
    LifeCountConfig,
    LifeStateConfig,
)
from imagination.schema import ConfigError, Scalar, coerce, keys, needs
from jobs import hydra_config
from jobs.config import RunSettings, resolve


@pytest.fixture
def composer() -> Iterator[None]:
    GlobalHydra.instance().clear()
    hydra_config.register()
    with hydra.initialize(version_base="1.3", config_path=None):
        yield


def test_precedence_is_defaults_preset_layers_in_order() -> None:
    config = resolve("life_state", "paper_l2", {"lr": 1e-2, "gol": 4}, {"gol": 5})
    assert config["kernel"] == 3  # nobody says it: the default
    assert config["board"] == 20  # the preset's; the default is 12
    assert config["lr"] == 1e-2  # the layer's; the preset's is 5e-4
    assert config["gol"] == 5  # the later layer's
    assert (config["experiment"], config["preset"]) == ("life_state", "paper_l2")


def test_a_layers_preset_stays_below_all_layers() -> None:
    config = resolve("life_state", "fast", {"batch": 7}, {"preset": "paper_bce"})
    # paper_bce would say batch 200 and board 20; only what a layer says outright is above it.
    assert (config["preset"], config["batch"], config["board"]) == ("paper_bce", 7, 20)
    assert config == resolve("life_state", "paper_bce", {"batch": 7})


def test_a_resolved_config_is_complete_plain_and_in_field_order() -> None:
    config = resolve("life_state", "fast", {"lr": 1, "max_steps": 1e4})
    assert tuple(config) == keys(LifeStateConfig)
    assert (type(config["lr"]), type(config["max_steps"])) == (float, int)


@pytest.mark.parametrize(
    ("experiment", "preset", "layer", "message"),
    [
        ("life_stat", "fast", {}, "unknown experiment 'life_stat' (did you mean 'life_state'?)"),
        ("life_state", "fst", {}, "unknown preset 'fst' of life_state (did you mean 'fast'?)"),
        ("life_state", "fast", {"preset": "fst"}, "unknown preset 'fst' of life_state"),
        ("life_state", "fast", {"gool": 3}, "unknown key 'gool' (did you mean 'gol'?)"),
        ("life_state", "fast", {"experiment": "chess"}, "experiment: 'chess' is not life_state"),
        ("life_count", "paper_bce", {}, "unknown preset 'paper_bce' of life_count (did you mean 'paper'?)"),
        ("life_count", "fast", {"gan": "joint"}, "gan: 'joint' is not one of none, posthoc"),
        ("life_count", "fast", {"ae": True}, "unknown key 'ae'"),
    ],
)
def test_resolve_refuses(experiment: str, preset: str, layer: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(experiment, preset, layer)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message", "keys_at_fault"),
    [
        ({"kernel": 4}, "kernel: 4 is even", "kernel"),
        ({"gan": "posthoc", "model_t": 1}, "gan: 'posthoc' with model_t 1 has no", "gan model_t"),
        ({"gan": "joint", "model_t": 1}, "gan: 'joint' with model_t 1 has no", "gan model_t"),
        ({"gan": "posthoc", "gol": 1}, "gan: 'posthoc' with gol 1 has no true", "gan gol"),
        ({"gan": "joint", "gol": 1}, "gan: 'joint' with gol 1 has no true", "gan gol"),
        (  # fast traces every 25 steps
            {"gan": "posthoc", "adv_steps": 24},
            "trace_every: 25 is longer than the adversary's training, adv_steps 24; set trace_every to at most 24",
            "trace_every adv_steps",
        ),
        ({"max_steps": 99}, "eval_every: 100 is longer than the whole run", "eval_every max_steps"),
        (
            {"max_steps": 9, "eval_every": 9, "trace_every": 10, "give_up_at": 11, "give_up_accuracy": 0.5},
            "trace_every: 10, give_up_at: 11 are longer than the whole run, max_steps 9",
            "trace_every give_up_at max_steps",
        ),
        ({"schedule": "exponential"}, "schedule: 'exponential' with decay 1", "schedule decay"),
        ({"give_up_at": 5}, "give_up_at: 5 has no effect", "give_up_at give_up_accuracy"),
        ({"give_up_accuracy": 0.995}, "give_up_accuracy: 0.995 is above", "give_up_accuracy accuracy"),
    ],
)
def test_values_that_contradict_each_other_are_all_named(
    changes: dict[str, object], message: str, keys_at_fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("life_state", "fast", changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert " ".join(caught.value.keys) == keys_at_fault
    assert caught.value.key == keys_at_fault.split(maxsplit=1)[0]


@pytest.mark.parametrize(
    ("config_type", "preset", "values"),
    [
        *((LifeStateConfig, name, values) for name, values in LIFE_STATE_PRESETS.items()),
        *((LifeCountConfig, name, values) for name, values in LIFE_COUNT_PRESETS.items()),
    ],
)
def test_presets_hold_what_coerce_would_make_of_them(
    config_type: type[LifeConfig], preset: str, values: dict[str, Scalar]
) -> None:
    for key, value in values.items():
        coerced = coerce(config_type, key, value)
        assert (type(coerced), coerced) == (type(value), value)
    assert resolve(config_type().experiment, preset, {"gan": "posthoc"})["preset"] == preset


@pytest.mark.parametrize("config_type", [LifeStateConfig, LifeCountConfig])
def test_the_preset_adam_is_the_defaults(config_type: type[LifeConfig]) -> None:
    assert resolve(config_type().experiment, "adam") == asdict(config_type(preset="adam"))


@pytest.mark.parametrize("experiment", registry.names())
def test_the_docs_list_every_value_of_every_preset(experiment: str) -> None:
    folder = Path(__file__).parents[1] / "docs"
    docs = " ".join(" ".join((folder / page).read_text() for page in ("experiments.md", "chess.md")).split())
    names = list(registry.declaration(experiment).presets)
    given = dict.fromkeys(needs(registry.config_type(experiment)), "0" * 64)
    configs = [resolve(experiment, name, given) for name in names]
    assert f"| `{experiment}` | {' | '.join(f'`{name}`' for name in names)} |" in docs
    for key in configs[0].keys() - {"experiment", "preset", "gol", "model_t", "gan", "seed", *given}:
        found = [config[key] for config in configs]
        told = [str(value).lower() if isinstance(value, bool | str) else f"{value:g}" for value in found]
        assert f"| {key} | {' | '.join(told)} |" in docs or (
            len(set(told)) == 1 and f"{key} {told[0]}" in docs
        )


def test_intervals_as_long_as_the_run_are_fine() -> None:
    config = resolve("life_state", "fast", {"max_steps": 100, "eval_every": 100, "trace_every": 100})
    assert config["max_steps"] == 100
    assert resolve("life_state", "fast", {"gan": "posthoc", "model_t": 2})["model_t"] == 2


def test_a_correlation_needs_no_true_state_in_between() -> None:
    # The counting task's decoder is scored on the final state, too, so gol 1 leaves its adversary something to do.
    config = resolve("life_count", "fast", {"gan": "posthoc", "gol": 1})
    assert (config["gan"], config["gol"]) == ("posthoc", 1)
    assert resolve("life_state", "fast", {"gol": 1})["gan"] == "none"


@pytest.mark.parametrize("gan", ["none", "joint"])
def test_the_adversarys_steps_bound_no_trace_of_a_run_without_its_stage(gan: str) -> None:
    # A joint run takes adv_steps for its ramp alone.
    layer = {"gan": gan, "adv_steps": 24, "trace_every": 25}
    assert resolve("life_state", "fast", layer)["adv_steps"] == 24
    assert resolve("life_state", "fast", layer | {"gan": "posthoc", "adv_steps": 25})["adv_steps"] == 25


@pytest.mark.parametrize("config_type", [LifeStateConfig, LifeCountConfig])
def test_an_adversary_has_the_decoders_depth_unless_told(config_type: type[LifeConfig]) -> None:
    assert config_type(dec_layers=4).adv_depth == 4
    assert config_type(dec_layers=4, adv_layers=0).adv_depth == 4
    assert config_type(dec_layers=4, adv_layers=3).adv_depth == 3


def test_total_steps_are_those_of_all_stages() -> None:
    steps = {"max_steps": 40, "adv_steps": 7}
    assert LifeStateConfig(**steps).total_steps == 40
    assert LifeStateConfig(**steps, gan="joint").total_steps == 40  # one stage, with its adversary in it
    assert LifeStateConfig(**steps, gan="posthoc").total_steps == 47
    assert LifeCountConfig(**steps, gan="posthoc").total_steps == 47


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize(
    ("preset", "layer"),
    [
        ("adam", {}),
        ("fast", {"gol": 5, "model_t": 4, "seed": 9}),
        ("paper_bce", {"gol": 3, "model_t": 3, "seed": 1}),
        ("paper_l2", {"lr": 1e-3, "rnn": False, "loss": "bce", "clip": 1}),
    ],
)
def test_hydra_composes_the_same(preset: str, layer: dict[str, object]) -> None:
    overrides = [f"preset={preset}", *(f"{key}={value}" for key, value in layer.items())]
    composed = hydra.compose(hydra_config.PRIMARY, overrides)
    config, _ = hydra_config.split(composed)
    expected = resolve("life_state", preset, layer)
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    assert {key: plain[key] for key in plain if key != "run"} == expected
    assert config == expected
    assert list(config) == list(expected)
    assert [type(value) for value in config.values()] == [type(value) for value in expected.values()]


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize(
    "override", ["chanels=3", "preset=fst", "experiment=chess", "gol=three", "run.gpu=1"]
)
def test_hydra_refuses_unknown_keys_groups_and_wrong_types(override: str) -> None:
    with pytest.raises(HydraException):
        hydra.compose(hydra_config.PRIMARY, [override])


@pytest.mark.usefixtures("composer")
def test_bounds_hold_for_hydra_too() -> None:
    with pytest.raises(ConfigError, match="gol: 0 is below 1"):
        hydra_config.split(hydra.compose(hydra_config.PRIMARY, ["gol=0"]))


@pytest.mark.usefixtures("composer")
def test_execution_settings_are_no_part_of_the_config() -> None:
    plain, _ = hydra_config.split(hydra.compose(hydra_config.PRIMARY, []))
    config, settings = hydra_config.split(
        hydra.compose(hydra_config.PRIMARY, ["run.db=x.db", "run.device=cpu", "run.threads=2"])
    )
    assert settings == RunSettings(db="x.db", device="cpu", threads=2)
    assert config == plain
