"""What a machine may lack: a test is then skipped, but fails in CI, so that nothing is skipped there."""

import os
from typing import NoReturn

import pytest


def give_up(what: str, why: str) -> NoReturn:
    """Skip the test; if `REQUIRE_` and this word is set, as in CI, it fails instead."""
    if os.environ.get(f"REQUIRE_{what}"):
        pytest.fail(why)
    pytest.skip(why)
