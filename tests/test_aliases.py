"""What is small to write and huge to read is refused at once, in one line, wherever a user's text is read.

That is YAML whose aliases stand for billions of values, files that include each other billions of times, and brackets
that are nested too deeply.
"""

from itertools import pairwise
from pathlib import Path

import pytest
from sweep_helpers import RESULTS, SWEEP, run

from imagination.schema import ConfigError, check_aliases
from results_db.contract import NewSweep
from results_db.store import open_store
from slurm.submit.launchers import choose
from sweeps.spec.document import SpecError
from sweeps.spec.expand import expand
from sweeps.spec.load import expand_spec, load

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


CIRCLES = [
    "launcher: &l {setup: [*l]}",
    "launcher: {setup: &s [module load cuda, *s]}",
    "base: &b {<<: *b}",
    "&all\nbase: *all",
]


@pytest.mark.parametrize("text", CIRCLES)
def test_an_alias_inside_what_it_names_is_a_circle(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError, match="which is a circle; remove it") as caught:
        load(tmp_path / "s.yaml")
    assert len(caught.value.lines) == 1


def test_a_circle_in_a_launcher_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGINE_LAUNCHERS", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("setup: &s [module load cuda, *s]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: an alias .* is a circle"):
        choose({"name": "mine"})


@pytest.mark.timeout(60)
def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    """Each of 40 files includes the next two, so there are 10^8 ways to the last."""
    for number in range(40):
        names = f"s{number + 1}.yaml, s{number + 2}.yaml"
        (tmp_path / f"s{number}.yaml").write_text(f"include: [{names}]\n")
    for number in (40, 41):
        (tmp_path / f"s{number}.yaml").write_text(
            f"experiment: life_state\ncells: [{{gol: {number - 38}, runs: 2}}]\n"
        )
    cells = expand(load(tmp_path / "s0.yaml")).cells
    assert [(cell.config["gol"], cell.wanted) for cell in cells] == [(2, 2), (3, 2)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"launcher.setup={'[' * 5000}{']' * 5000}", "is nested too deeply; use fewer brackets"),
        ("channels=range(1,1000000000)", "gives more than 100,000 values"),
        ("runs=1000000000", "is above 1000000, the largest allowed"),
        ("channels=*j", "'*j' is not an integer"),
    ],
)
def test_an_override(tmp_path: Path, override: str, says: str) -> None:
    (tmp_path / "s.yaml").write_text("experiment: life_state\ncells: [{gol: 2, runs: 1}]\n")
    with pytest.raises(SpecError, match=says) as caught:
        expand_spec(tmp_path / "s.yaml", [override])
    assert len(caught.value.lines) == 1


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [BOMB, "[" * 100_000, "3", '{"parts": 1}'])
def test_a_stored_spec(tmp_path: Path, text: str) -> None:
    """Stored specs are JSON, which has no aliases. Whoever can write the store can write anything there."""
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        store.stage([], sweep=NewSweep("t", text))
    for command in ([SWEEP, "status", "t"], [RESULTS, "compare", "all"]):
        said = run(*command, "--db", "a.db", folder=tmp_path)
        assert "Traceback" not in said.stderr
        assert said.returncode == (2 if "status" in command else 0)
        assert len(said.stderr.splitlines()) == (1 if "status" in command else 0)


def test_honest_aliases_pass() -> None:
    shared = [1, 2, 3]
    check_aliases({"a": shared, "b": shared, "c": [shared, "word"]})
