"""The ways in which a GPU can train, and which of them `IMAGINE_GPU` asks for. Torch-free.

`imagination.training.gpu` says what they are.
"""

import logging
import os
from collections.abc import Collection
from functools import lru_cache

log = logging.getLogger(__name__)

VARIABLE = "IMAGINE_GPU"
TRITON, GRAPHS = "triton", "graphs"
CHOICES = ("", TRITON, GRAPHS, f"{TRITON},{GRAPHS}")
"""What may be chosen; the first is PyTorch's own way."""


def asked() -> str | None:
    """The ways that `IMAGINE_GPU` asks for, as one of `CHOICES`; None: it is not set."""
    return one_of_choices(words(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def one_of_choices(found: Collection[str]) -> str:
    """These words as one of `CHOICES`, without those that are no way."""
    return ",".join(way for way in (TRITON, GRAPHS) if way in found)


@lru_cache
def words(text: str) -> frozenset[str]:
    """The ways that a text names."""
    found = frozenset(text.replace(",", " ").split())
    if unknown := sorted(found - {TRITON, GRAPHS}):
        log.warning("%s: '%s' is not known; it may have %s and %s", VARIABLE, unknown[0], TRITON, GRAPHS)
    return found
