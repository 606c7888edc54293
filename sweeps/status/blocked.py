"""Runs that a launch cannot train yet, because what they build on is not there."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from imagination import registry
from imagination.schema import ASSET, ConfigError, fitting, needs
from jobs.identity import assets, needed
from jobs.pack import depths_of
from results_db.columns import names_in
from results_db.contract import ACTIVE, FAILURES, PlannedRun, State, Store
from results_db.files import Files
from results_db.text import counted, short
from sweeps.status.cell import BLOCKED, NEW, open_statuses, status_of


def blocked(
    runs: Iterable[PlannedRun],
    states: Mapping[str, State],
    store: Store,
    *,
    retry_failed: bool = False,
    waits_for: Collection[str] | None = None,
    at_hand: Collection[str] = (),
) -> dict[str, str]:
    """Run id to why a launch would leave a run out, though it is to be trained.

    Args:
        runs: all runs of a sweep.
        states: their states; runs without a state are new.
        store: the store.
        retry_failed: whether failed runs are to be trained as well.
        waits_for: the active runs whose end runs can wait for; None: all of them.
        at_hand: digests of needed files that a launch copies; it refuses a spec that names one that is missing.
    """
    chosen = open_statuses(retry_failed=retry_failed)
    waiting = {run.run_id: run for run in runs if status_of(states.get(run.run_id, NEW)) in chosen}
    others = {need for run in waiting.values() for need in run.needs.values()} - waiting.keys()
    files = {asset for run in waiting.values() for asset in assets(run.config)}
    reasons = _missing(files, store, at_hand=at_hand)
    if others:
        reasons |= _unmet(others, store, waits_for=waits_for)
    if not reasons:
        return {}
    depths = depths_of(waiting.values())
    for run in sorted(waiting.values(), key=lambda run: depths[run.run_id]):
        for need in (*run.needs.values(), *assets(run.config)):
            if need in reasons:
                # What needs a blocked run is blocked for the same reason.
                reasons.setdefault(run.run_id, reasons[need])
    return {run_id: why for run_id, why in reasons.items() if run_id in waiting}


def sweep_states(store: Store) -> dict[str, Counter[str]]:
    """Of each launched sweep, its runs by state; `BLOCKED` for those that the next launch would leave out."""
    counts = {
        name: Counter({str(state): count for state, count in states.items()})
        for name, states in store.sweeps().items()
    }
    rows = _with_needs(store)
    runs = [PlannedRun(row["run_id"], row, needed(row)) for row in rows]
    stopped = blocked(runs, {row["run_id"]: State(row["state"]) for row in rows}, store)
    for row in rows:
        for name in names_in(row["sweep"]) if row["run_id"] in stopped else ():
            counts[name].subtract([row["state"]])
            counts[name][BLOCKED] += 1
    return {name: +states for name, states in counts.items()}


def lines(runs: Mapping[str, str]) -> list[str]:
    """One line for each reason."""
    return [
        f"{counted(count, 'run')} blocked, because {why}" for why, count in Counter(runs.values()).items()
    ]


def check_needs(runs: Sequence[PlannedRun], store: Store) -> None:
    """Check that the needed runs that a spec names by their ids exist, and fit the runs that need them.

    Raises:
        ConfigError: one does not exist, or does not fit.
    """
    planned = {run.run_id for run in runs}
    named = [(run, key, need) for run in runs for key, need in run.needs.items() if need not in planned]
    found = _rows({need for *_, need in named}, store) if named else {}
    configs = {need: store.run(need)["config"] for need in found}
    for run, key, need in named:
        fits = fitting(registry.config_type(str(run.config["experiment"])), key)
        if need not in found:
            raise ConfigError(
                f"{key}: run {short(need)} is not in {store.display_url}; give the id of a run that is, "
                "or a run's settings under `needs:`"
            )
        if found[need]["experiment"] not in fits:
            raise ConfigError(
                f"{key}: run {short(need)} is of {found[need]['experiment']}; give a run of {' or '.join(fits)}"
            )
        registry.rebuilt(run.config).check_needs({key: registry.rebuilt(configs[need])})


def _missing(files: Collection[str], store: Store, *, at_hand: Collection[str]) -> dict[str, str]:
    """Why runs cannot build on these files, by the value of the config key."""
    found = {}
    for value in sorted(files):
        digest = value.removeprefix(ASSET)
        if digest not in at_hand and not Files(store.folder).asset(digest).is_file():
            found[value] = (
                f"the file {short(digest)}, which they need, is missing; name its path (asset) under `needs:`"
            )
    return found


def _unmet(needed: Collection[str], store: Store, *, waits_for: Collection[str] | None) -> dict[str, str]:
    """Why runs cannot build on these runs, by run id."""
    rows, experiments = _rows(needed, store), store.experiments()
    found = {}
    for run_id in sorted(needed):
        row = rows.get(run_id)
        if row is not None and row["state"] == State.COMPLETED:
            why = experiments[row["experiment"]].missed(row["outcome"], row)
        else:
            can_wait = waits_for is None or run_id in waits_for
            why = _why(None if row is None else State(row["state"]), can_wait=can_wait)
        if why is not None:
            found[run_id] = f"run {short(run_id)}, which they need, {why}"
    return found


def _with_needs(store: Store) -> list[dict[str, Any]]:
    """The store's runs of installed experiments whose configs name needs: what identifies them, and these keys."""
    there = store.experiments().keys()
    keys = {one.name: needs(one.config) for one in registry.declarations() if one.name in there}
    named = {name for each in keys.values() for name in each}
    if not named:
        return []
    import numpy as np  # not for --help

    frame = store.frame()
    building = [name for name, each in keys.items() if each]
    found = frame[np.isin(frame["experiment"].astype(str), building)]
    return found.records(["run_id", "experiment", "state", "sweep", *named])


def _rows(run_ids: Collection[str], store: Store) -> dict[str, dict[str, Any]]:
    """State, outcome, experiment and gate metrics of these runs, by run id; without those that the store lacks."""
    import numpy as np  # not for --help

    frame = store.frame()
    found = frame[np.array([run_id in run_ids for run_id in frame["run_id"]], dtype=bool)]
    metrics = {one.gate[0] for one in store.experiments().values() if one.gate}
    return {
        row["run_id"]: row for row in found.records(["run_id", "state", "outcome", "experiment", *metrics])
    }


def _why(state: State | None, *, can_wait: bool) -> str | None:
    """Why runs cannot build on a run in this state, if it is not COMPLETED."""
    if state is None:
        return "is not in the store"
    if state in FAILURES:
        return f"{state.lower().replace('_', ' ')}; imagine-sweep retry trains it again"
    if state in ACTIVE:
        return None if can_wait else "is trained by another launch; launch again when it is stored"
    return "is not trained yet; launch it first"
