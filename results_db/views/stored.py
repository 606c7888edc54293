"""Runs of a store as an experiment's own figures read them; implements `imagination.figures.Stored`."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from imagination.figures import FigureError, Stored, Traces
from imagination.recorder import Arrays
from results_db.columns import config_keys, metrics
from results_db.contract import Attempt, Scalar, State
from results_db.files import Files
from results_db.store.sql import SqlStore
from results_db.text import short


class _Together:
    """The traces of several runs, which the first that asks reads for all."""

    def __init__(self, store: SqlStore, run_ids: Sequence[str]) -> None:
        self._store, self._run_ids = store, run_ids

    @cached_property
    def traces(self) -> Mapping[str, Traces]:
        return self._store.traces_of(self._run_ids)


class StoredRun:
    """See `imagination.figures.Stored`. `about` has the columns that every run has."""

    def __init__(
        self,
        store: SqlStore,
        about: Mapping[str, Any],
        *,
        config: Mapping[str, Scalar | None],
        metrics: Mapping[str, float | None],
        together: _Together,
        is_named: bool,
    ) -> None:
        self._store, self._together = store, together
        self.run_id = str(about["run_id"])
        self.name = short(self.run_id)
        self.state = str(about["state"])
        self.outcome: str | None = about["outcome"]
        self.config: Mapping[str, Scalar] = {key: value for key, value in config.items() if value is not None}
        self.metrics: Mapping[str, float] = {
            name: value for name, value in metrics.items() if value is not None
        }
        self.tag: str | None = about["tag"]
        self.note: str | None = about["note"]
        self.is_named = is_named

    @property
    def traces(self) -> Traces:
        """See `Stored`."""
        return self._together.traces.get(self.run_id, {})

    def sample(self, name: str) -> Arrays | None:
        """See `Stored`."""
        if name not in self._samples:
            return None
        return self._arrays(self._samples[name], f"its sample '{name}'")

    def artifact(self, name: str) -> bytes:
        """See `Stored`."""
        artifacts = self._store.artifacts(self.run_id)
        if name not in artifacts:
            there = f"it has {', '.join(artifacts)}" if artifacts else "it has none"
            raise FigureError(f"run {self.name} is {self.state} and has no artifact '{name}'; {there}")
        (done,) = [one for one in self._store.attempts(self.run_id) if one["state"] == State.COMPLETED]
        attempt = Attempt(self.run_id, *(done[key] for key in ("number", "restart", "nonce")))
        files, sha256 = Files(self._store.folder), artifacts[name].sha256
        path = files.artifact(attempt, name, sha256)
        try:
            content = files.read(path)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise FigureError(
                f"run {self.name}: its artifact {path} is missing or damaged; choose another run"
            )
        return content

    def arrays(self, name: str) -> Arrays:
        """See `Stored`."""
        from safetensors.numpy import load

        if name.endswith(".npz"):
            return self._arrays(self.artifact(name), f"its artifact '{name}'")
        return dict(load(self.artifact(f"{name}.safetensors")))

    @cached_property
    def _samples(self) -> Mapping[str, bytes]:
        return self._store.samples(self.run_id)

    def _arrays(self, npz: bytes, what: str) -> Arrays:
        try:
            with np.load(io.BytesIO(npz)) as file:
                return {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile):
            raise FigureError(
                f"run {self.name}: {what} is damaged; choose another run, or train it in a new store"
            ) from None


def named(store: SqlStore, run_id: str) -> Stored:
    """The run with this id, which the user named."""
    run = store.run(run_id)
    about = {**run, "tag": ", ".join(run["tags"]) or None}
    together = _Together(store, [run_id])
    return StoredRun(
        store, about, config=run["config"], metrics=run["metrics"], together=together, is_named=True
    )


def several(store: SqlStore, rows: Sequence[Mapping[str, Any]], *, are_named: bool = False) -> list[Stored]:
    """The runs of these rows of `Store.runs`."""
    together = _Together(store, [str(row["run_id"]) for row in rows])
    keys, measured = (config_keys(rows[0]), metrics(list(rows[0]))) if rows else ([], [])
    return [
        StoredRun(
            store,
            row,
            config={key: row[key] for key in keys},
            metrics={name: row[name] for name in measured},
            together=together,
            is_named=are_named,
        )
        for row in rows
    ]
