"""Run identity: it must never change silently, since every store is keyed by it."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagination import registry
from imagination.life.config import LifeStateConfig
from imagination.schema import ConfigError, added, build, coerce, keys, rebuild, setting
from jobs.identity import canonical_json, run_id

# Written by hand, keys in alphabetical order: what the golden id is the hash of. It need not be any preset's today.
GOLDEN_TEXT = (
    '{"config":{"accuracy":0.99,"adv_layers":2,"adv_lr":0.002,"adv_ramp":1.0,"adv_steps":2000,"adv_weight":0.034,'
    '"ae":true,"batch":128,"board":12,"channels":20,"clip":1.0,"clip_by":"norm",'
    '"dec_layers":1,"decay":1.0,"disc_lr":0.001,"enc_layers":1,"eval_board":20,"eval_every":250,'
    '"eval_sequences":10000,"experiment":"life_state","gan":"posthoc","give_up_accuracy":0.0,"give_up_at":0,'
    '"gol":3,"kernel":3,"loss":"bce","lr":0.002,"max_steps":5000,'
    '"model_t":3,"muon_lr":0.02,"optimizer":"adam","precision":"float32","preset":"fast","reset":0.1,"residual":true,"rnn":true,'
    '"schedule":"linear","seed":7,"step_layers":5,"trace_every":50,"warmup":0.04},"schema":1}'
)
GOLDEN_ID = "58115c9d120d1b38d90162e7965f5529d96a93151ffe771662fcce1a55484eea"

floats = st.floats(min_value=1e-9, max_value=1e9)
LIFE = {"experiment": "life_state"}
values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63), floats, st.text())
configs = st.dictionaries(st.text(min_size=1), values, max_size=8).map(lambda config: {**config, **LIFE})


def test_golden_id() -> None:
    # If this fails, every stored run loses its name: raise SCHEMA_VERSION on purpose, or undo the change.
    config = json.loads(GOLDEN_TEXT)["config"]
    assert run_id(config) == hashlib.sha256(GOLDEN_TEXT.encode()).hexdigest() == GOLDEN_ID


def test_golden_text_has_every_key_of_the_experiment() -> None:
    # A key that comes later has a `before`, and the golden id stays as it is.
    config = json.loads(GOLDEN_TEXT)["config"]
    assert set(config) == set(keys(LifeStateConfig)) - added(LifeStateConfig).keys()
    coerced = {key: coerce(LifeStateConfig, key, value) for key, value in config.items()}
    assert canonical_json(coerced) == canonical_json(config)  # every value stands there in its own type


@given(configs, st.randoms())
def test_key_order_does_not_matter(config: dict[str, object], random: object) -> None:
    items = list(config.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert run_id(dict(items)) == run_id(config)  # type: ignore[arg-type]


@given(configs, configs)
def test_ids_are_equal_exactly_when_configs_are(one: dict[str, object], other: dict[str, object]) -> None:
    # Python calls 1, 1.0 and True equal; identity, like JSON, does not (`coerce` decides which one it is).
    same = {key: (type(value), value) for key, value in one.items()} == {
        key: (type(value), value) for key, value in other.items()
    }
    assert (run_id(one) == run_id(other)) is same  # type: ignore[arg-type]


@given(configs, st.data())
def test_changing_any_one_value_changes_the_id(config: dict[str, object], data: st.DataObject) -> None:
    config["key"] = data.draw(st.integers())
    other = {**config, "key": data.draw(st.integers().filter(lambda value: value != config["key"]))}
    assert run_id(config) != run_id(other)  # type: ignore[arg-type]


@given(st.integers(1, 10**6))
def test_a_float_key_spelled_as_integer_is_the_same_run(lr: int) -> None:
    spelled = [{**LIFE, "lr": coerce(LifeStateConfig, "lr", value)} for value in (lr, float(lr))]
    assert run_id(spelled[0]) == run_id(spelled[1])


@given(st.integers(1, 100))
def test_an_integer_key_spelled_as_float_is_the_same_run(gol: int) -> None:
    spelled = [{**LIFE, "gol": coerce(LifeStateConfig, "gol", value)} for value in (gol, float(gol))]
    assert run_id(spelled[0]) == run_id(spelled[1])


@given(configs)
def test_canonical_json_gives_the_config_back(config: dict[str, object]) -> None:
    assert json.loads(canonical_json(config)) == config  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_has_no_identity(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        run_id({**LIFE, "lr": value})


@dataclass(frozen=True)
class Early:
    """An experiment when its first runs were stored."""

    experiment: str = setting("grown")
    lr: float = setting(0.1)


@dataclass(frozen=True)
class Late(Early):
    """The same with a key more. Runs without it had no noise; new runs have some by default."""

    noise: float = setting(0.5, before=0.0)


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> Any:
    def id_of(config_type: type, **values: object) -> str:
        monkeypatch.setattr(registry, "config_type", lambda name: {"grown": config_type}[name])
        return run_id(asdict(build(config_type, values)))

    return id_of


def test_a_run_keeps_its_id_when_a_key_is_added(grown: Any) -> None:
    # By hand: {"experiment": "grown", "lr": 0.1}, with or without noise 0.
    text = '{"config":{"experiment":"grown","lr":0.1},"schema":1}'
    assert grown(Early) == grown(Late, noise=0) == hashlib.sha256(text.encode()).hexdigest()


def test_an_added_key_is_part_of_the_id_at_every_other_value(grown: Any) -> None:
    text = '{"config":{"experiment":"grown","lr":0.1,"noise":0.5},"schema":1}'
    assert grown(Late) == hashlib.sha256(text.encode()).hexdigest()
    assert len({grown(Late, noise=noise) for noise in (0, 0.25, 0.5)}) == 3


def test_a_stored_run_is_built_with_the_value_that_it_had() -> None:
    stored = {"experiment": "grown", "lr": 0.2}
    assert rebuild(Late, stored) == Late(lr=0.2, noise=0.0)
    assert rebuild(Late, {**stored, "noise": 0.7}) == Late(lr=0.2, noise=0.7)


def test_the_value_of_earlier_runs_is_checked_like_any_other() -> None:
    @dataclass(frozen=True)
    class Wrong:
        noise: float = setting(0.5, low=0, before=-1.0)

    with pytest.raises(ConfigError, match=r"noise: -1\.0 is below 0"):
        added(Wrong)
