"""What the display of running trainings shows of Life's progress values. Imports nothing slow."""

import re
from collections.abc import Mapping

_STATE = re.compile(r"(adv_)?state(\d+)")  # the names of decoded states in traces


def accuracies(values: Mapping[str, float]) -> str:
    """The accuracy of the final state, then of the states in between: `final 97.1% | s2 99.8% s3 98.6%`.

    A run of `life_count` has `count` first. A line of the adversary's stage starts with `adversary: `.
    """
    found = [match for match in map(_STATE.fullmatch, values) if match]
    # state1 is left out: it is the autoencoder's output and not predicted.
    states = sorted((int(match[2]), match[0]) for match in found if match[2] != "1")
    named = [f"s{number} {_percent(values[name])}" for number, name in states]
    if "count" in values:
        front = f"count {_percent(values['count'])}"
    elif found:
        front = f"final {_percent(values[states[-1][1]]) if states else '?'}"
        named = named[:-1]
    else:
        return ""
    adversary = "adversary: " if found and found[0][1] else ""
    return adversary + front + (" | " + " ".join(named) if named else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
