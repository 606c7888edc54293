"""What a spec is refused for when its cells are made: combinations, ranges, exclusions, and too many runs."""

from pathlib import Path

import pytest
from expand_helpers import HEAD, expanded

from imagination.schema import ConfigError
from sweeps.spec.document import SpecError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "grid: {gol: [2]}\nexclude:\n  - {gol: 2, rnn: false}",
            ":4: exclude: no cell has gol=2, rnn=false;",
        ),
        ("grid: {gol: [2]}\nexclude: [{gol: 2}]", ": exclude leaves no cell"),
        ("cells:\n  - {gol: 2}\n  - {gol: 2}", ":4: cell gol=2: the same as "),
        ("cells:\n  - {gol: 2}\n  - {gol: 2, runs: 3}", ":4: cell gol=2: the same as "),
        ("cells:\n  - {gol: 2}\n  - {gol: 2, rnn: true}", ":4: cell gol=2, rnn=true: the same as "),
        ("cells: [{gol: 2}, {gol: 2}]", ":2: cell gol=2: the same as another on this line; remove one"),
        ("cells:\n  - {gol: 2}\n  - {kernel: 4}", ":4: cell kernel=4: kernel: 4 is even"),
        ("cells:\n  - gol: 3\n    kernel: 4", ":4: cell gol=3, kernel=4: kernel: 4 is even"),
        ("base: {kernel: 4}", ":2: kernel: 4 is even"),
        ("base:\n  gol: 3\n  kernel: 4\ncells:\n  - {rnn: true}", ":4: cell rnn=true: kernel: 4 is even"),
        ("base: {kernel: 3}\ngrid:\n  kernel: [3, 4]", ":4: cell kernel=4: kernel: 4 is even"),
        ("base: {kernel: 3}\ncells:\n  - {kernel: 4}", ":4: cell kernel=4: kernel: 4 is even"),
        ("zip:\n  gol: [2, 3]\n  kernel: [3, 4]", ":4: cell gol=3, kernel=4: kernel: 4 is even"),
        ("sample:\n  lr: {uniform: [1, 2]}\n  kernel: {choice: [4]}", ":4: seed 0: kernel: 4 is even"),
        ("cells: [{gol: 2}]\nsample:\n  kernel: {choice: [4]}", ":4: cell gol=2: seed 0: kernel: 4 is even"),
        ("sample:\n  lr:\n    uniform: [2, 1]", ":4: sample.lr.uniform: [2.0, 1.0] has the high end first;"),
        (
            "sample: {gol: {randint: [4, 2]}}",
            ":2: sample.gol.randint: [4, 2] has the high end first; write [2, 4]",
        ),
        ("sample: {lr: {loguniform: [1, 1.0]}}", ":2: sample.lr.loguniform: [1.0, 1.0] holds one value; giv"),
        # An adversary without intermediate states: whichever of the two keys the row says is the place.
        (
            "base: {gan: posthoc}\ncells:\n  - {model_t: 2}\n  - {gol: 2, model_t: 1}",
            ":5: cell gol=2, model_t=1: gan: 'posthoc' with model_t 1 has no intermediate states to work on; "
            "set gan to none, or model_t to at least 2",
        ),
        (
            "base:\n  lr: 1e-3\n  model_t: 1\n  gan: joint\ncells:\n  - {gol: 2}",
            ":5: cell gol=2: gan: 'joint' with model_t 1",
        ),
        # What is longer than the run: the preset's interval of 1000 steps, and both with the trace's of 100.
        (
            "preset: paper_bce\nbase:\n  batch: 8\n  max_steps: 900\ncells: [{gol: 2}]",
            ":5: cell gol=2: eval_every: 1000 is longer than the whole run, max_steps 900; "
            "set eval_every to at most 900, or max_steps to at least 1000",
        ),
        (
            "preset: paper_bce\nbase: {max_steps: 90}",
            ":3: eval_every: 1000, trace_every: 100 are longer than the whole run, max_steps 90; "
            "set eval_every and trace_every to at most 90, or max_steps to at least 1000",
        ),
    ],
)
def test_a_wrong_combination_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        expanded(tmp_path, HEAD + text + "\n")
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}{expected}")
    assert "\n" not in str(caught.value)


def test_every_senseless_cell_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "cells:\n"
        "  - {gol: 3, model_t: 1, gan: posthoc}\n"
        "  - {gol: 2}\n"
        "  - {gol: 2}\n"
        "  - {gol: 4, kernel: 4}\n"
    )
    other = HEAD + "base: {kernel: 2}\n"
    with pytest.raises(SpecError) as caught:
        expanded(Path(), HEAD + "include: [other.yaml]\n" + text, other=other)
    # The fourth line names all of the spec's columns: it says of a whole cell that it is there already.
    assert [line.split(";")[0] for line in caught.value.lines] == [
        "other.yaml:2: kernel: 2 is even",
        "s.yaml:4: cell gol=3, model_t=1, gan='posthoc': gan: 'posthoc' with model_t 1 has no intermediate states to"
        " work on",
        "s.yaml:6: cell gol=2, model_t=3, gan='none', kernel=3: the same as s.yaml:5",
        "s.yaml:7: cell gol=4, kernel=4: kernel: 4 is even",
    ]


def test_of_very_many_senseless_cells_the_first_are_shown(tmp_path: Path) -> None:
    text = HEAD + f"base: {{kernel: 4}}\ngrid: {{channels: {list(range(1, 1001))}}}\n"
    with pytest.raises(SpecError) as caught:
        expanded(tmp_path, text)
    *shown, last = caught.value.lines
    assert (len(shown), last) == (100, "and 900 more mistakes")
    assert "cell channels=100: kernel: 4 is even" in shown[-1]


def test_what_is_excluded_need_not_make_sense(tmp_path: Path) -> None:
    text = HEAD + "grid: {gan: [none, posthoc], model_t: [1, 2]}\n"
    with pytest.raises(SpecError, match="cell gan='posthoc', model_t=1"):
        expanded(tmp_path, text)
    assert len(expanded(tmp_path, text + "exclude: [{gan: posthoc, model_t: 1}]\n").cells) == 3


def test_a_drawn_value_is_checked_in_every_run(tmp_path: Path) -> None:
    text = HEAD + "sample: {kernel: {choice: [4, 3]}}\n"
    (cell,) = expanded(tmp_path, text).cells  # seed 0 draws 3
    wrong = []
    for seed in range(1, 21):
        try:
            assert cell.run(seed).config["kernel"] == 3
        except ConfigError:
            wrong.append(seed)
    assert 0 < len(wrong) < 20
    with pytest.raises(
        SpecError, match=rf":2: seed {wrong[0]} \(and {len(wrong) - 1} more of 21\): kernel: 4 is even"
    ):
        expanded(tmp_path, text + "runs: 21\n")
    with pytest.raises(SpecError, match=rf":2: seed {wrong[0]}: kernel: 4 is even"):
        expanded(tmp_path, text + f"seeds: [0, {wrong[0]}]\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 999 channels, kernels 1, 3, ... 13
        (
            f"grid: {{channels: {list(range(1, 1000))}, kernel: {list(range(1, 15, 2))}}}\nruns: 1000",
            "s.yaml: 6,993,000 runs are above 200,000, the most allowed; "
            "reduce runs or seeds (1,000) x channels (999) x kernel (7)",
        ),
        (
            "cells: [{gol: 1, runs: 1000000}, {gol: 2}]",
            "s.yaml: 1,000,001 runs are above 200,000, the most allowed; reduce runs or seeds (1,000,001)",
        ),
        (
            "seeds: 400000\nzip: {gol: [1, 2, 3], model_t: [1, 2, 3]}",
            "s.yaml: 1,200,000 runs are above 200,000, the most allowed; reduce runs or seeds (400,000) x zip (3)",
        ),
        (
            f"seeds: {{stop: {2**62}}}",  # as many as a Python range can count
            f"s.yaml: {2**62:,} runs are above 200,000, the most allowed; reduce runs or seeds ({2**62:,})",
        ),
        (
            "include: [small.yaml, large.yaml]\ncells: [{gol: 3}]",
            "large.yaml: 1,000,003 runs are above 200,000, the most allowed; reduce runs or seeds (1,000,000)",
        ),
    ],
    ids=["grid", "cells", "zip", "seeds", "include"],
)
def test_too_many_runs_are_refused_before_any_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[object] = []
    monkeypatch.setattr("sweeps.spec.expand.resolve", lambda *layers: made.append(layers))
    with pytest.raises(SpecError) as caught:
        expanded(Path(), HEAD + text, small=HEAD + "runs: 2\n", large=HEAD + "runs: 1000000\n")
    assert str(caught.value) == expected
    assert made == []


def test_the_most_runs_are_counted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.spec.expand.MOST_RUNS", 12)
    text = HEAD + "runs: 2\ngrid: {gol: [1, 2, 3]}\nzip: {enc_layers: [1, 2], dec_layers: [1, 2]}\n"
    assert len(expanded(tmp_path, text).runs) == 12
    with pytest.raises(SpecError, match=r"s\.yaml: 18 runs are above 12"):
        expanded(tmp_path, text.replace("runs: 2", "runs: 3"))
