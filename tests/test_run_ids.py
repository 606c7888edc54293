"""The run ids of everything that ships. A store is keyed by them, so no change of the code may change one.

`run_ids.json` holds the ids, as 16 characters, of every preset (seed 0) and of every spec under every preset of its
experiments. After a change that is meant to add or rename specs, write the file anew:

    .venv/bin/python tests/test_run_ids.py
"""

import json
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest

from imagination import registry
from jobs.config import resolve
from jobs.identity import run_id
from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import apply_overrides, load, shipped

FILE = Path(__file__).with_name("run_ids.json")
CHARACTERS = 16


def presets(experiment: str) -> list[str]:
    return list(registry.declaration(experiment).presets)


def made_up_needs(experiment: str) -> dict[str, str]:
    kind = registry.config_type(experiment)
    return {one.name: "0" * 64 for one in fields(kind) if not one.metadata.get("optional", True)}


def current() -> dict[str, list[str]]:
    ids = {
        f"{experiment} preset={preset}": [run_id(resolve(experiment, preset, made_up_needs(experiment)))]
        for experiment in registry.names()
        for preset in presets(experiment)
    }
    for name in shipped():
        spec = load(name)
        ids[name] = [run.run_id for run in expand(spec).runs]
        for experiment in sorted({part.experiment for part in spec.parts}):
            for preset in presets(experiment):
                override = f"{experiment}.preset={preset}"
                with suppress(SpecError):  # under that preset, cells of fast_shape are equal
                    runs = expand(apply_overrides(spec, [override])).runs
                    ids[f"{name} {override}"] = [run.run_id for run in runs]
    return {name: [each[:CHARACTERS] for each in found] for name, found in ids.items()}


@pytest.mark.slow
def test_no_run_id_changes() -> None:
    assert current() == json.loads(FILE.read_text())


if __name__ == "__main__":
    before = json.loads(FILE.read_text())
    changed = [name for name, ids in current().items() if before.get(name, ids) != ids]
    if changed and "--change" not in sys.argv:
        sys.exit(f"these have other ids than before: {', '.join(changed)}; if that is meant, add --change")
    lines = (f"{json.dumps(name)}: {json.dumps(ids)}" for name, ids in current().items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
