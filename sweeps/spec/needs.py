"""What the runs of a spec build on: other runs, which are planned with them, or files."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from imagination import registry
from imagination.schema import ConfigError, Scalar, coerce, nearest
from jobs.config import complete, resolve
from jobs.identity import planned
from results_db.contract import PlannedRun
from sweeps.spec.document import Node, SpecError, check_keys
from sweeps.spec.sample import Distribution

Values = Mapping[str, Scalar]
Sample = Mapping[str, Distribution]


@dataclass(frozen=True, kw_only=True)
class RunNeed:
    """A run that other runs build on.

    Attributes:
        experiment: its experiment.
        preset: its preset.
        values: its config values.
        same: keys whose values it takes from the run that needs it, such as `seed`.
        needs: what it builds on itself.
    """

    experiment: str
    preset: str
    values: Values = field(default_factory=dict)
    same: Sequence[str] = ()
    needs: Mapping[str, "Need"] = field(default_factory=dict)

    def run(self, config: Values) -> PlannedRun:
        """The run that a run with this config needs.

        Raises:
            ConfigError: see `resolve`.
        """
        values = {**self.values, **{key: config[key] for key in self.same}}
        return planned(resolve(self.experiment, self.preset, values, self._ids(values)))

    def runs(self, config: Values, sample: Sample) -> "list[tuple[PlannedRun, Mapping[str, Need], Sample]]":
        """`run`, after the runs that it needs: each with its own needs, and those of the drawn keys that it has."""
        own, drawn = self.run(config), {key: one for key, one in sample.items() if key in self.same}
        earlier = (each for need in self.needs.values() for each in need.runs(own.config, drawn))
        return [*earlier, (own, self.needs, drawn)]

    def value(self, config: Values) -> str:
        """The value of the config key: the run's id."""
        return self.run(config).run_id

    def _ids(self, values: Values) -> dict[str, str]:
        if not self.needs:
            return {}
        whole = complete(self.experiment, self.preset, values)
        return values_of(self.needs, whole)


@dataclass(frozen=True, kw_only=True)
class AssetNeed:
    """A file that runs build on.

    Attributes:
        asset: its path, relative to the folder of the spec.
        sha256: the digest of its content.
        source: where to get it.
    """

    asset: str
    sha256: str
    source: str = ""
    same: Sequence[str] = ()

    def runs(self, config: Values, sample: Sample) -> "list[tuple[PlannedRun, Mapping[str, Need], Sample]]":
        """None: a file needs no run."""
        return []

    def value(self, config: Values) -> str:
        """The value of the config key: the file's digest."""
        return f"sha256:{self.sha256}"


Need = RunNeed | AssetNeed


def values_of(needs: Mapping[str, Need], config: Values) -> dict[str, str]:
    """The values of the config keys that name what a run with this config needs.

    Raises:
        ConfigError: a needed run has a wrong value; the error names the need.
    """
    found = {}
    for key, need in needs.items():
        try:
            found[key] = need.value(config)
        except ConfigError as error:
            raise ConfigError(f"needs.{key}: {error}", key=key) from None
    return found


def recompose(said: Mapping[str, Any]) -> dict[str, Need]:
    """The needs from what `dataclasses.asdict` made of them."""
    return {
        key: AssetNeed(**one) if "asset" in one else RunNeed(**{**one, "needs": recompose(one["needs"])})
        for key, one in said.items()
    }


def read(experiment: str, node: Node) -> dict[str, Need]:
    """Reads the section `needs` of an experiment's spec.

    Raises:
        SpecError: it names no need of the experiment, or something that does not exist.
    """
    declared = registry.declaration(experiment)
    allowed = {one.name: one.metadata for one in fields(declared.config) if "need" in one.metadata}
    found: dict[str, Need] = {}
    for key, child in node.mapping("needs").items():
        if key not in allowed:
            valid = ", ".join(allowed) or "nothing"
            child.fail(f"needs: {experiment} needs no '{key}'{nearest(key, allowed)}; it needs {valid}")
        entries = child.mapping(f"needs.{key}")
        if "asset" in entries:
            if not allowed[key]["asset"]:
                child.fail(f"needs.{key}: takes no file; give a run of {_listed(allowed[key]['need'])}")
            found[key] = _asset(key, entries, child)
        else:
            found[key] = _run(key, entries, child, allowed[key]["need"], of=declared.keys)
    return found


def _asset(key: str, entries: Mapping[str, Node], node: Node) -> AssetNeed:
    check_keys(entries, f"key of needs.{key}", ("asset", "sha256", "from"))
    words = {name: child.word(f"needs.{key}.{name}") for name, child in entries.items()}
    digest = words.get("sha256", "")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        node.fail(
            f"needs.{key}: sha256 is not a digest of 64 characters 0-9, a-f; see: sha256sum {words['asset']}"
        )
    return AssetNeed(asset=words["asset"], sha256=digest, source=words.get("from", ""))


def _run(
    key: str, entries: dict[str, Node], node: Node, allowed: Sequence[str], *, of: Sequence[str]
) -> RunNeed:
    if "experiment" not in entries:
        node.fail(f"needs.{key}: experiment is missing; give one of {_listed(allowed)}")
    named = entries.pop("experiment")
    experiment = named.word("experiment")
    if experiment not in allowed:
        named.fail(f"needs.{key}: a run of '{experiment}' does not fit; it takes {_listed(allowed)}")
    try:
        declared = registry.declaration(experiment)
        preset = declared.default_preset
        if "preset" in entries:
            preset = entries.pop("preset").word("preset")
            registry.preset(experiment, preset)
    except ConfigError as error:
        raise SpecError(f"{node.where}: needs.{key}: {error}") from None
    same: list[str] = []
    if "same" in entries:
        child = entries.pop("same")
        same = [item.word("same") for item in child.items(f"needs.{key}.same")]
        for name in same:
            if name not in of or name not in declared.keys:
                child.fail(f"needs.{key}.same: {name} is not a key of both experiments")
    inner = read(experiment, entries.pop("needs")) if "needs" in entries else {}
    places = {"same": same, "needs": inner, "the values": entries}
    for (one, names), (other, others) in itertools.combinations(places.items(), 2):
        for name in names:
            if name in others:
                node.fail(f"needs.{key}: {name} is given by {one} and by {other}; keep one of them")
    try:
        values = {name: coerce(declared.config, name, child.value) for name, child in entries.items()}
    except ConfigError as error:
        raise SpecError(f"{node.where}: needs.{key}: {error}") from None
    return RunNeed(experiment=experiment, preset=preset, values=values, same=same, needs=inner)


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names) or "no run"
