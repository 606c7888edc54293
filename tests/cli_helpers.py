"""`imagine-results` called in this process, as its console script calls it."""

import pytest

from results_db import console
from results_db.cli.root import results


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        console.run(results, args=args)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def output(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The standard output of a call that succeeds and has nothing else to say."""
    code, out, err = call(capsys, *args)
    assert (code, err) == (0, "")
    return out
