"""The chain of chess from an empty store: positions, a network, probes and decoders; and what is refused."""

import hashlib
import json
import os
import shutil
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import leela_helpers
import numpy as np
import pytest
from chess_helpers import config_of, needs_stockfish
from slurm_helpers import launch as launch_on_slurm
from slurm_helpers import wait_for_states
from sweep_helpers import RESULTS, answer, opened, run

from imagination.schema import ConfigError
from jobs.identity import run_id
from jobs.pack import Pack
from results_db.contract import PlannedRun, State
from sweeps.launch.local import _check_machine
from sweeps.spec.load import expand_spec

SPEC = Path(__file__).with_name("chess_tiny.yaml")
TARGETS = {"from", "to", "move", "board", "lens", "tuned", "cause"}


def launch(folder: Path, *arguments: str):
    return answer("launch", *arguments, "--db", "a.db", "--json", "--workers", "2", folder=folder)


@pytest.mark.slow
@needs_stockfish
def test_the_chain_is_trained_from_an_empty_store_and_tabulated(tmp_path) -> None:
    shutil.copy(SPEC, tmp_path)
    said = launch(tmp_path, "chess_tiny.yaml")
    assert said.code == 0, said.err
    # Positions and two networks; with two seeds eleven cells at two layers, and one that has no layers.
    assert said.json["stored"] == 1 + 2 + (11 * 2 + 1) * 2
    table = run(
        RESULTS, "table", "--db", "a.db", "--json", "--group", "target,layer,shuffled", folder=tmp_path
    )
    rows = json.loads(table.stdout)
    assert {row["target"] for row in rows if row["target"]} == TARGETS
    with closing(opened(tmp_path)) as store:
        frame = store.runs().set_index("run_id")
        probes = frame[frame["experiment"] == "chess_probe"]
        # Runs on one network share a pack, so one process trains them; those of random weights have their own.
        packs = {
            key: len({store.attempts(each)[-1]["process"] for each in group.index})
            for key, group in probes.groupby(["network", "features"])
        }
    assert set(packs.values()) == {1}
    assert len(packs) == 6
    lens = probes[(probes["target"] == "lens") & (probes["layer"] == 2)]
    assert (lens["agreement"] == 1).all()  # the last layer's lens is the network
    board = probes[probes["target"] == "board"]
    assert (board["successor"] > 2 * board["chance"]).all()
    # The paper's procedure on the same network, which is not trained again.
    said = launch(tmp_path, paper(tmp_path).name)
    assert said.code == 0, said.err
    assert len(said.json["trained"]) == 5
    with closing(opened(tmp_path)) as store:
        decoders = store.runs()[lambda frame: frame["experiment"] == "chess_decoder"]
    assert (decoders["copy_1"] > 0.9).all()


def paper(folder: Path) -> Path:
    """`chess_paper` with the tiny presets."""
    text = (Path(__file__).parents[1] / "sweeps" / "chess_paper.yaml").read_text()
    text = text.replace("preset: small", "preset: tiny").replace(
        "chess_positions, seed", "chess_positions, preset: tiny, seed"
    )
    (folder / "paper.yaml").write_text(text.replace("runs: 5", "runs: 1\nbase: {preset: tiny, share: 0.6}"))
    return folder / "paper.yaml"


def test_the_shipped_specs_build_on_the_same_networks() -> None:
    ids = [
        {one.run_id for one in expand_spec(name, ())[1].runs if one.config["experiment"] != experiment}
        for name, experiment in (
            ("chess", "chess_probe"),
            ("chess_cause", "chess_probe"),
            ("chess_paper", "chess_decoder"),
        )
    ]
    assert len(ids[0]) == 1 + 5  # positions, five networks
    assert ids[0] == ids[1] == ids[2]
    data = {one.run_id for one in expand_spec("chess_data", ())[1].runs}
    assert ids[0] < data  # which has other positions, too


def test_a_layer_beyond_the_network_is_refused(tmp_path) -> None:
    (tmp_path / "s.yaml").write_text(
        SPEC.read_text().replace("layer: [0, 2]", "layer: [0, 3]").replace("layer: 2}", "layer: 3}")
    )
    said = answer("plan", "s.yaml", folder=tmp_path)
    assert said.code == 2
    first = said.err.splitlines()[0]
    assert "layer: 3 is beyond the network's last block, 2; give a layer from 0 to 2" in first
    assert "s.yaml:" in first


LEELA = """
experiment: chess_probe
needs:
  network: {{asset: net.pb.gz, sha256: {digest}}}
  positions: {{experiment: chess_positions, preset: tiny, seed: 0}}
cells: [{{target: lens, layer: {layer}, share: 0.6}}]
"""


def leela(folder: Path, data: bytes, *, layer: int = 2):
    (folder / "net.pb.gz").write_bytes(data)
    (folder / "s.yaml").write_text(LEELA.format(digest=hashlib.sha256(data).hexdigest(), layer=layer))
    return launch(folder, "s.yaml")


@pytest.mark.slow
@needs_stockfish
def test_a_network_of_leela_is_probed(tmp_path) -> None:
    data, _ = leela_helpers.network(np.random.default_rng(0))
    said = leela(tmp_path, data)
    assert said.code == 0, said.err
    with closing(opened(tmp_path)) as store:
        frame = store.runs()
        assert frame["agreement"].dropna().tolist() == [1.0]


@pytest.mark.parametrize(
    ("layer", "cut", "shapes", "why"),
    [
        (2, 100, {}, "needs: net.pb.gz: network: the file is no whole gzip file"),
        (2, 0, {"input.means": None}, "needs: net.pb.gz: network: the file is damaged, or lacks parts"),
        (3, 0, {}, "layer: 3 is beyond the network's last block, 2"),
    ],
)
def test_a_file_that_does_not_fit_ends_the_launch(tmp_path, layer, cut, shapes, why) -> None:
    data, _ = leela_helpers.network(np.random.default_rng(0), shapes=shapes)
    said = leela(tmp_path, data[: len(data) - cut], layer=layer)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert why in line


def test_without_stockfish_the_launch_says_how_to_install_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imagination.chess.stockfish._DEBIAN", "/nowhere")
    monkeypatch.setenv(
        "PATH", os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if "games" not in p)
    )
    if shutil.which("stockfish"):
        pytest.skip("Stockfish is on the PATH")
    shutil.copy(SPEC, tmp_path)
    said = launch(tmp_path, "chess_tiny.yaml")
    assert said.code == 2
    assert "sudo apt-get install stockfish" in said.err


@needs_stockfish
def test_another_stockfish_ends_the_launch_before_anything_trains(tmp_path) -> None:
    text = SPEC.read_text().replace(
        "chess_positions, preset: tiny", "chess_positions, stockfish: '9.9', preset: tiny"
    )
    (tmp_path / "s.yaml").write_text(text)
    said = launch(tmp_path, "s.yaml")
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert line.startswith("imagine-sweep: error: stockfish: 9.9 is not the version here, Stockfish ")
    with closing(opened(tmp_path)) as store:
        assert len(store.runs()) == 0


@pytest.mark.parametrize("experiment", ["chess_positions", "chess_network", "chess_probe", "chess_decoder"])
def test_without_the_package_chess_no_experiment_of_chess_is_ready(monkeypatch, experiment) -> None:
    without_chess(monkeypatch)
    config = asdict(config_of(experiment))
    with pytest.raises(
        ConfigError, match=f"experiment '{experiment}' needs a package .* here, chess; install"
    ):
        _check_machine([Pack((PlannedRun(run_id(config), config),))])


def without_chess(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("chess", "imagination.chess."))]:
        if not name.endswith(("config", "declaration", "chess_helpers")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "chess", None)


def test_without_the_package_chess_the_launch_names_it(tmp_path, monkeypatch) -> None:
    without_chess(monkeypatch)
    shutil.copy(SPEC, tmp_path)
    said = launch(tmp_path, "chess_tiny.yaml")
    assert said.code == 2
    assert "experiment 'chess_positions' needs a package that is not installed here, chess;" in said.err


@pytest.mark.fault
@pytest.mark.slow
@needs_stockfish
def test_the_chain_is_trained_on_slurm(slurm, tmp_path) -> None:
    (tmp_path / "s.yaml").write_text(SPEC.read_text() + "launcher: {cpus_per_task: 1}\n")
    assert launch_on_slurm(tmp_path).json["submitted"] == 49
    wait_for_states(tmp_path, State.COMPLETED)
    with closing(opened(tmp_path)) as store:
        assert len(store.runs()) == 49
