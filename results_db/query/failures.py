"""Failures with the same cause, counted together."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from results_db.contract import FAILURES, EndedAttempt, State, Store

if TYPE_CHECKING:  # slow to import
    from results_db.frame import Column, Frame

_VARYING = (
    # The folder of a path; the file's name may matter.
    (re.compile(r"(?<![\w.])~?/(?:[^\s'\":,;()/]+/)+"), "…/"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "#"),
    # Ids: UUIDs and hashes, which have digits among their letters.
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "#"),
    (re.compile(r"\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"), "#"),
    (re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"), "#"),
)
"""Patterns of text that varies between failures of the same cause, and its replacement."""


@dataclass
class Cause:
    """Attempts that failed for the same reason.

    Attributes:
        key: see the function `key`.
        example: the reason of one of the attempts.
        attempts: the attempts, in the order of the input.
    """

    key: str
    example: str
    attempts: list[EndedAttempt] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of attempts."""
        return len(self.attempts)


def reason(attempt: EndedAttempt) -> str:
    """Why an attempt failed: the last line of its traceback, else of its log, else its state and exit code."""
    for text in (attempt.error, attempt.log_tail):
        lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    code = "" if attempt.exit_code is None else f" with exit code {attempt.exit_code}"
    return f"{attempt.state}{code}"


def key(reason: str) -> str:
    """The reason without numbers, addresses, ids and folders: equal for failures of the same cause."""
    for pattern, stand_in in _VARYING:
        reason = pattern.sub(stand_in, reason)
    return reason


def by_cause(attempts: Iterable[EndedAttempt]) -> list[Cause]:
    """The causes, the most frequent first."""
    causes: dict[str, Cause] = {}
    for attempt in attempts:
        why = reason(attempt)
        causes.setdefault(key(why), Cause(key(why), why)).attempts.append(attempt)
    return sorted(causes.values(), key=lambda cause: -cause.count)


def with_causes(store: Store, *, limit: int | None = None) -> "Frame":
    """The runs of the store, or the first ones, with the column `cause`: why a run failed or was discarded."""
    from results_db.frame import column

    frame = store.frame(limit=limit)

    def causes() -> "Column":
        ended = store.ended_attempts(FAILURES | {State.DISCARDED})
        found = {one.attempt.run_id: reason(one) for one in ended}
        return column([found.get(run_id) for run_id in frame["run_id"]])

    return frame.with_column("cause", causes)
