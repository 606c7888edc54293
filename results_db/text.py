"""Words for lines that a person reads: the nearest valid word, one line of several, and how many."""

import difflib
from collections.abc import Iterable


# `imagination.schema` has the same function: neither package may import the other, and to share ten lines a third
# one would have to be below both. Their cutoffs are equal, so that every command guesses alike.
def nearest(word: str, valid: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` if a valid word is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def one_line(text: object) -> str:
    """The text with every run of white space, newlines too, as one space."""
    return " ".join(str(text).split())


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
