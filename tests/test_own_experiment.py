"""The experiment of docs/own-experiment.md, installed as its readers install it, launched and tabulated."""

import json
import re
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm_helpers import launch as launch_on_slurm
from slurm_helpers import wait_for_states
from sweep_helpers import RESULTS, SWEEP, answer, opened, run, wait_until

from results_db.contract import Attempt, State
from results_db.files import Files
from results_db.store import open_store
from results_db.views.stored import named

PACKAGE = Path(__file__).with_name("own_experiment")
PAGE = Path(__file__).parents[1] / "docs" / "own-experiment.md"
FILES = ("pyproject.toml", "parity/declaration.py", "parity/train.py", "parity.yaml")


@pytest.fixture
def folder(tmp_path: Path, installed) -> Path:
    installed("own_experiment")
    return tmp_path


def answer_json(folder: Path, *arguments: str):
    return json.loads(run(RESULTS, *arguments, "--db", "a.db", "--json", folder=folder).stdout)


@pytest.mark.skipif(not PAGE.exists(), reason="not run from a checkout")
def test_the_page_shows_this_package() -> None:
    blocks = re.findall(r"```\w+\n(.+?)\n```", PAGE.read_text(), re.DOTALL)
    texts = [(PACKAGE / file).read_text().rstrip() for file in FILES]
    assert blocks == [*texts, (PACKAGE / "parity/figures.py").read_text().rstrip()]
    lines = sum(len(text.splitlines()) for text in texts)
    assert lines < 70
    code = sum(bool(line.strip()) for text in texts for line in text.splitlines())
    assert code < 60


@pytest.mark.slow
def test_it_is_launched_here_and_tabulated(folder) -> None:
    shutil.copy(PACKAGE / "parity.yaml", folder)
    said = answer("launch", "parity.yaml", "--db", "a.db", "--json", "--workers", "2", folder=folder)
    assert said.code == 0, said.err
    assert said.json["stored"] == 12
    assert len(re.findall(r": done, in .*, accuracy [01]\.\d{4} ", said.err)) == 12
    head, *_ = run(RESULTS, "table", "--db", "a.db", folder=folder).stdout.splitlines()
    assert not PAGE.exists() or f"    {head}\n" in PAGE.read_text()
    rows = answer_json(folder, "table", "--group", "bits,width")
    assert {(row["bits"], row["width"]): row["run"] for row in rows} == dict.fromkeys(
        [(3, 4), (3, 16), (4, 4), (4, 16)], 3
    )
    with closing(opened(folder)) as store:
        frame = store.runs()
        assert sorted(named(store, frame["run_id"][0]).arrays("network")) == [
            f"{layer}.{kind}" for layer in (0, 2) for kind in ("bias", "weight")
        ]
        # The gate is the declared one, recomputed here; and the accuracy follows from the weights that were left.
        assert list(frame["kept"]) == list(frame["accuracy"] >= 0.95)
        assert set(frame["gate"]) == {"accuracy >= 0.95"}
        assert store.attempts(frame["run_id"][0])[0]["versions"]["parity"] == "1.0"
        for row in frame.itertuples():
            assert row.accuracy == accuracy_of(store, row.run_id, row.bits)
    wide = {row["bits"]: row["kept"] for row in rows if row["width"] == 16}
    assert wide[3] == 3
    # Coverage and top-up count by this gate, too.
    cover = answer("coverage", "parity.yaml", "--db", "a.db", "--json", folder=folder).json
    assert sum(cell["kept"] for cell in cover) == sum(frame["kept"])


def accuracy_of(store, run_id: str, bits: int) -> float:
    """The share of right parities, from the artifact, without the package's code."""
    (done,) = store.attempts(run_id)
    attempt = Attempt(run_id, *(done[name] for name in ("number", "restart", "nonce")))
    (network,) = Files(store.folder).artifacts(attempt)
    weights = load_file(network)
    inputs = torch.tensor([[float(number >> bit & 1) for bit in range(bits)] for number in range(2**bits)])
    hidden = torch.tanh(inputs @ weights["0.weight"].T + weights["0.bias"])
    said = (hidden @ weights["2.weight"].T + weights["2.bias"])[:, 0] > 0
    parity = torch.tensor([number.bit_count() % 2 == 1 for number in range(2**bits)])
    return (said == parity).double().mean().item()


@pytest.mark.slow
def test_it_goes_on_after_an_interruption_to_the_same_result(folder) -> None:
    (folder / "s.yaml").write_text("experiment: parity\nbase: {max_steps: 6000}\nruns: 1\n")
    whole = answer("launch", "s.yaml", "--db", "whole.db", "--json", folder=folder)
    assert whole.code == 0
    command = (SWEEP, "launch", "s.yaml", "--db", "a.db")
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as stopped:
        logs = folder / "a.files" / "logs"
        wait_until(lambda: "started at" in "".join(path.read_text() for path in logs.glob("*/*.log")))
        stopped.send_signal(signal.SIGINT)
        stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert answer("launch", "s.yaml", "--db", "a.db", "--json", folder=folder).json["stored"] == 1
    with closing(open_store(str(folder / "whole.db"), create=False)) as one, closing(opened(folder)) as other:
        (run_id,) = one.runs()["run_id"]
        assert one.traces(run_id) == other.traces(run_id)
        assert one.run(run_id)["metrics"] == other.run(run_id)["metrics"]
        assert one.artifacts(run_id) == other.artifacts(run_id)  # equal digests


@pytest.mark.slow
def test_it_is_launched_on_slurm(slurm, folder) -> None:
    (folder / "s.yaml").write_text("experiment: parity\nruns: 2\nlauncher: {cpus_per_task: 1}\n")
    assert launch_on_slurm(folder).json["submitted"] == 2
    wait_for_states(folder, State.COMPLETED)
    rows = answer_json(folder, "table", "--group", "bits,width")
    assert [(row["bits"], row["width"], row["run"]) for row in rows] == [(4, 32, 2)]


@pytest.mark.fault
@pytest.mark.slow
def test_every_command_reads_a_store_without_life(folder) -> None:
    (folder / "s.yaml").write_text("experiment: parity\nbase: {bits: 3}\ngrid: {width: [16, 24]}\nruns: 2\n")
    assert answer("launch", "s.yaml", "--db", "a.db", "--json", folder=folder).code == 0
    for arguments in (
        ["table"],
        ["table", "--runs", "--metrics", "accuracy"],
        ["runs"],
        ["compare", "all"],
        ["effect", "width"],
        ["figure", "key", "width", "-o", "a.png"],
        ["figure", "loss"],
        ["report", "-o", "r.html"],
        ["export", "out"],
    ):
        done = run(RESULTS, *arguments, "--db", "a.db", folder=folder)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (arguments, done.stderr)
    for arguments in (["trace"], ["figure", "steps"], ["figure", "packs"]):
        done = run(RESULTS, *arguments, "--db", "a.db", folder=folder)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)


@pytest.mark.slow
def test_what_is_no_number_fails_its_run_alone(folder) -> None:
    train = folder / "site" / "parity" / "train.py"
    train.write_text(
        "import numpy as np\nimport torch\n\n"
        "def run(config, recorder):\n"
        "    recorder.trace('loss', np.int64(0), torch.tensor(float('nan')))\n"
        "    recorder.trace('loss', np.int64(1), torch.tensor(0.5))\n"
        "    recorder.metric('accuracy', np.float32(0.5) if config.seed else 'much')\n"
    )
    (folder / "s.yaml").write_text("experiment: parity\nruns: 2\n")
    assert answer("launch", "s.yaml", "--db", "a.db", "--json", folder=folder).code == 1
    with closing(opened(folder)) as store:
        frame = store.runs().set_index("seed")
        assert list(frame["state"]) == ["FAILED", "COMPLETED"]
        assert store.traces(frame["run_id"][1]) == {"loss": ([1], [0.5])}
        assert "could not convert string to float" in store.attempts(frame["run_id"][0])[0]["error"]
