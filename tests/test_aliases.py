"""YAML whose aliases stand for billions of values is refused at once, wherever a file of a user is read."""

from itertools import pairwise
from pathlib import Path

import pytest

from imagination.schema import ConfigError, check_aliases
from slurm.submit.launchers import choose
from sweeps.spec.document import SpecError
from sweeps.spec.load import load

NAMES = "abcdefghij"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(NAMES)
)
"""Ten levels of ten: 10^10 words."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        f"experiment: life_state\nbase:\n{'  ' + BOMB.replace(chr(10), chr(10) + '  ')}",
        BOMB + "experiment: life_state\ngrid: {gol: *j}\n",
        BOMB + "experiment: life_state\nlauncher: {setup: *j}\n",
    ],
)
def test_a_spec(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(
        SpecError, match="more than 1,000,000 values, the most allowed; write fewer"
    ) as caught:
        load(tmp_path / "s.yaml")
    assert len(caught.value.lines) == 1


@pytest.mark.timeout(60)
def test_a_launcher_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_LAUNCHERS", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(BOMB + "setup: *j\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: the aliases .* more than 1,000,000 values"):
        choose({"name": "mine"})


def test_honest_aliases_pass() -> None:
    shared = [1, 2, 3]
    check_aliases({"a": shared, "b": shared, "c": [shared, "word"]})
