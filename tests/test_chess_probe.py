"""Probes of frozen networks: exact where the answer is known, no better than chance on shuffled targets."""

import itertools

import numpy as np
import pytest
import torch
from chess_helpers import Left, config_of, trained
from test_chess_network import NEEDS, TINY
from training_helpers import CPU, MemoryRecorder

from imagination import probing
from imagination.chess import boards
from imagination.chess import probe as probes_of
from imagination.chess.network import OVER, Network, frozen, line
from imagination.chess.positions import Positions
from imagination.chess.probe import RUNNER, Frozen, Games, Probe, Probes
from imagination.runner import Run
from imagination.schema import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def needs():
    """A network that learned the rule of `NEEDS`, and those positions."""
    config = config_of("chess_network", **{**TINY, "blocks": 2, "max_steps": 300})
    (recorder,) = trained(config, needs=NEEDS)
    return {"network": Left(config, recorder), "positions": NEEDS["positions"]}


def probe(**changes):
    return config_of("chess_probe", **changes)


def measured(needs, **changes):
    (recorder,) = trained(probe(**{"share": 0.6, **changes}), needs=needs)
    assert recorder.outcome == "done"
    return recorder.metrics


def test_the_rule_is_read_from_the_network_but_not_from_shuffled_targets(needs) -> None:
    right = measured(needs, layer=2, target="from")
    wrong = measured(needs, layer=2, target="from", shuffled=True)
    assert set(right) == {"probe_accuracy", "usual"}
    assert right["probe_accuracy"] > wrong["probe_accuracy"]
    assert right["probe_accuracy"] > right["usual"] == wrong["usual"]


def parts(needs, *asked, **changes):
    """The parts of a pack of one run: what is frozen, the deal of the games, and the probes."""
    config = probe(**{"share": 0.6, **changes})
    shared = Frozen([Run(config, MemoryRecorder(), None, needs)], device=CPU)
    games = Games(shared, config)
    return shared, games, Probes(shared, games, layer=config.layer, probes=asked)


def test_targets_are_those_of_the_moves_that_follow(needs) -> None:
    squares = [Probe(side, "stockfish", ply) for side, ply in itertools.product(("from", "to"), (1, 2, 3))]
    following = Probe("board", "stockfish")
    shared, _, probes = parts(needs, *squares, following)
    held = shared.held
    for place, at in enumerate(shared.at[:20]):
        for ply in (1, 2, 3):
            move = boards.moves()[held.moves[at + ply - 1]]
            # The reply is black's where white moves: the same squares from the other side.
            seen = [
                int(probes.questions[Probe(side, "stockfish", ply)].right[place]) for side in ("from", "to")
            ]
            names = [f"{'abcdefgh'[square % 8]}{square // 8 + 1}" for square in seen]
            if ply == 2:
                names = [name[0] + str(9 - int(name[1])) for name in names]
            assert "".join(names) == move[:4]
        after = boards.successors(held.rows[at])[int(held.moves[at])]
        assert probes.questions[following].right[place].tolist() == after.tolist()


@pytest.mark.parametrize("features", ["trained", "random", "input", "next"])
def test_the_networks_own_move_is_that_of_the_trained_network(needs, features) -> None:
    asked = [Probe(target) for target in ("from", "to", "board")]
    shared, _, probes = parts(needs, *asked, features=features)
    network = frozen(needs["network"], device=CPU)
    rows = shared.rows[:20]
    logits, _ = network(network.encode(rows))
    for place, (row, values) in enumerate(zip(rows, logits, strict=True)):
        after = boards.successors(row)
        best = max(after, key=lambda move: values[move])
        right = [probes.questions[probe].right[place].tolist() for probe in asked]
        assert right == [*boards.ends()[best].tolist(), after[best].tolist()]


def test_the_networks_reply_is_its_best_move_after_its_own(needs) -> None:
    """Beside a game that the package `chess` plays from each position, with the network's move at every ply."""
    asked = {ply: [Probe(side, "network", ply) for side in ("from", "to")] for ply in (1, 2, 3)}
    shared, _, probes = parts(needs, *itertools.chain(*asked.values()))
    network = frozen(needs["network"], device=CPU)
    for place, row in enumerate(shared.rows[:20]):
        board = boards.decode(row)
        for ply, pair in asked.items():
            legal = {boards.index(board, move): move for move in board.legal_moves}
            logits, _ = network(network.encode(boards.encode(board)[None]))
            best = max(legal, key=lambda move: logits[0, move])
            seen = boards.ends()[best] ^ (56 if ply == 2 else 0)  # from the side of the first player
            assert [int(probes.questions[probe].right[place]) for probe in pair] == seen.tolist()
            board.push(legal[best])


def test_the_end_of_a_game_is_one_more_square(needs, monkeypatch) -> None:
    shared, games, _ = parts(needs)
    moves, after = shared.following(1)
    ended = moves.copy()
    ended[::3] = OVER
    monkeypatch.setattr(shared, "following", lambda ply: (ended, after))
    probes = Probes(shared, games, layer=0, probes=[Probe("to", ply=2)])
    (question,) = probes.questions.values()
    assert question.classes == 65
    assert (question.right == boards.NONE).tolist() == [at % 3 == 0 for at in range(len(moves))]
    recorder = MemoryRecorder()
    found = probes.measure(Run(probe(target="to", ply=2), recorder))
    assert 0 < found["probe_accuracy"] <= 1
    assert recorder.samples["heat"]["scores"].shape == (64,)


def test_a_game_that_has_ended_has_no_reply(needs) -> None:
    mate = boards.encode(boards.parse("6k1/5ppp/8/8/8/8/8/R3K3 w Q - 0 1"))  # Ra8 mates
    start = boards.encode(boards.parse("4k3/8/8/8/8/8/4P3/4K3 w - - 0 1"))
    network = frozen(needs["network"], device=CPU)
    logits = torch.zeros(2, len(boards.moves()))
    logits[0, boards.moves().index("a1a8")] = 1
    logits[1, boards.moves().index("e2e4")] = 1
    plies = list(itertools.islice(line(network, np.array([mate, start]), logits), 3))
    assert [moves[0] == OVER for moves, _ in plies] == [False, True, True]
    assert [moves[1] == OVER for moves, _ in plies] == [False, False, False]
    after = boards.successors(mate)[boards.moves().index("a1a8")]
    assert all(np.array_equal(squares[0], after) for _, squares in plies)


def test_a_fixed_penalty_is_the_one_that_is_used(needs) -> None:
    """A larger penalty makes smaller weights; the best of the four is one of the four."""
    fixed = [Probe("to", penalty=penalty) for penalty in probing.PENALTIES]
    _, _, probes = parts(needs, Probe("to"), *fixed, layer=1)
    norms = [float(probes._linear[probe].weights.norm()) for probe in fixed]
    assert norms == sorted(norms, reverse=True)
    assert float(probes._linear[Probe("to")].weights.norm()) in norms


def test_a_board_that_is_the_same_for_every_position_fills_no_square(needs, monkeypatch) -> None:
    """Copying is right on most squares, an empty board on many that change; neither says where a piece arrives."""
    shared, games, probes = parts(needs, Probe("board", "stockfish"), target="board")
    after = shared.held.after(shared.at, 1)
    test, fit = (part.numpy() for part in (games.test, games.deal.fit))
    now, wanted = shared.rows[test, :64], after[test]
    # A move fills the square that it goes to; castling fills two.
    arrived = (now != wanted) & (wanted > 0)
    assert set(arrived.sum(1).tolist()) <= {1, 2}
    usual = np.array([np.bincount(column).argmax() for column in after[fit].T])
    told = {
        "copy": now,
        "empty": np.zeros_like(now),
        "usual": np.tile(usual, (len(now), 1)),
        "right": wanted,
    }
    classes = [torch.from_numpy(part.astype(np.int64)) for part in (wanted, after[fit])]
    found = {}
    for name, board in told.items():
        sure = torch.nn.functional.one_hot(torch.from_numpy(board).long(), boards.CLASSES).float()
        monkeypatch.setattr(probes, "_asked", lambda _, sure=sure: (sure, *classes))
        found[name] = probes._board(Run(probe(target="board", moves="stockfish"), MemoryRecorder()))
    assert [found[name]["filled"] for name in ("copy", "empty", "right")] == [0, 0, 1]
    assert found["usual"]["filled"] == found["copy"]["filled_usual"] == (usual == wanted)[arrived].mean()
    assert found["copy"]["probe_accuracy"] == found["copy"]["usual"] == (now == wanted).mean()


def test_a_board_probe_is_measured_beside_a_random_order(needs) -> None:
    found = measured(needs, layer=1, target="board")
    shared, games, _ = parts(needs)
    counts = [boards.decode(row).legal_moves.count() for row in shared.rows[games.test.numpy()]]
    # Among n boards a random one is right with 1/n, and the right one's mean reciprocal rank is (1 + 1/2 + ...)/n.
    assert found["chance"] == pytest.approx(np.mean([1 / n for n in counts]))
    ranks = [np.mean([1 / rank for rank in range(1, n + 1)]) for n in counts]
    assert found["chance_mrr"] == pytest.approx(np.mean(ranks))
    assert {"filled", "filled_usual", "usual", "probe_accuracy", "successor", "successor_mrr"} < set(found)


def ranked(probes, scores):
    """The metrics of a board probe that gives these scores in the test's positions."""
    right = torch.zeros(len(scores), 64, dtype=torch.int64)
    probes._asked = lambda _: (scores, right, right)
    return probes._board(Run(probe(target="board", moves="stockfish"), MemoryRecorder()))


def test_a_move_ranks_by_the_scores_of_its_two_squares(needs) -> None:
    found = measured(needs, layer=2, target="move")
    shared, games, probes = parts(needs, Probe("from"), Probe("to"), layer=2)
    assert len(games.test) < probes_of._TRIED  # so that all are tried
    first, second = (
        probes.questions[Probe(side)].scores(
            probes._linear[Probe(side)], lambda which: shared.layer(2, which), games.test
        )
        for side in ("from", "to")
    )
    right = []
    for place, row in enumerate(shared.rows[games.test.numpy()]):
        squares = {move: boards.ends()[move] for move in boards.legal(row)}
        best = max(squares, key=lambda m: first[place, squares[m][0]] + second[place, squares[m][1]])
        right.append(best == games.moves("network")[place])
    assert found["successor"] == pytest.approx(np.mean(right))
    assert found["successor"] > 2 * found["chance"]


def test_successors_rank_by_how_near_their_boards_are(needs) -> None:
    """A probe that is sure of the right board ranks it first; one that is sure of another ranks that first."""
    shared, games, probes = parts(needs, target="board")
    rows = shared.rows[games.test.numpy()]
    right = [
        boards.successors(row)[int(move)] for row, move in zip(rows, games.moves("stockfish"), strict=True)
    ]
    wrong = [
        next(board for other, board in boards.successors(row).items() if other != move)
        for row, move in zip(rows, games.moves("stockfish").tolist(), strict=True)
    ]
    for wanted, first in ((right, 1.0), (wrong, 0.0)):
        sure = torch.nn.functional.one_hot(torch.from_numpy(np.array(wanted)).long(), boards.CLASSES).float()
        assert ranked(probes, sure)["successor"] == first
    # Equal scores tell nothing: of n boards the right one ranks at (n + 1) / 2.
    counts = [len(boards.successors(row)) for row in rows]
    found = ranked(probes, torch.zeros(len(rows), 64, boards.CLASSES))
    assert found["successor"] == 0
    assert found["successor_mrr"] == pytest.approx(np.mean([2 / (n + 1) for n in counts]))


def test_the_seed_draws_the_positions_that_are_tried(needs, monkeypatch) -> None:
    monkeypatch.setattr(probes_of, "_TRIED", 30)
    tried = [parts(needs, seed=seed)[1].tried.tolist() for seed in (0, 0, 1)]
    assert tried[0] == tried[1] != tried[2]
    assert len(set(tried[0])) == 30
    assert tried[0] != list(range(30))


def test_at_the_last_layer_the_lens_is_the_network(needs) -> None:
    lens = measured(needs, layer=2, target="lens")
    tuned = measured(needs, layer=2, target="tuned")
    assert lens["agreement"] == 1
    assert (
        tuned["agreement"] > 0.95
    )  # the best map from a layer to itself changes nothing, but for the penalty
    early = measured(needs, layer=0, target="lens")
    assert early["agreement"] <= measured(needs, layer=0, target="tuned")["agreement"]


def test_the_probes_directions_flip_moves_more_than_other_directions(needs) -> None:
    found = measured(needs, layer=0, target="cause", strength=1.0)
    assert found["flips"] > 3 * found["flips_random"]
    assert found["flips"] > found["flips_other"]


def test_directions_of_shuffled_targets_flip_less_than_half_as_often(needs) -> None:
    right, wrong = (
        measured(needs, layer=0, target="cause", strength=1.0, shuffled=shuffled)
        for shuffled in (False, True)
    )
    assert right["flips"] > 2 * wrong["flips"]
    assert right["flips_random"] == wrong["flips_random"]


def test_a_pack_measures_what_each_run_measures_alone(needs) -> None:
    every = [
        probe(layer=1, seed=seed, target=target, share=0.6)
        for seed, target in itertools.product((0, 1), ("from", "board", "tuned"))
    ]
    together = trained(*every, needs=needs)
    for config, recorder in zip(every, together, strict=True):
        assert recorder.metrics == measured(needs, layer=1, seed=config.seed, target=config.target)
    assert together[0].metrics != together[3].metrics  # seeds deal other games


def test_the_probes_of_a_pack_share_one_forward_pass(needs, monkeypatch) -> None:
    """Layers, targets and seeds differ; every position is given to the frozen network once."""
    encoded = []
    encode = Network.encode
    monkeypatch.setattr(Network, "encode", lambda self, rows: encoded.append(len(rows)) or encode(self, rows))
    every = [
        probe(layer=layer, seed=seed, target=target, share=0.6)
        for layer, seed, target in itertools.product((0, 1, 2), (0, 1), ("from", "board", "tuned", "cause"))
    ]
    trained(*every, needs=needs)
    positions = Positions.of(needs["positions"].arrays("held"))
    assert sum(encoded) == len(positions.followed(3))


def test_controls_read_the_input_and_a_network_that_learned_nothing(needs) -> None:
    which = torch.arange(50)
    shared, *_ = parts(needs, features="input")
    rows = shared.rows[:50]
    assert np.array_equal(shared.layer(0, which), boards.planes(rows).reshape(50, -1))
    shared, *_ = parts(needs, features="next")
    after = shared.following(1)[1][:50]
    both = np.hstack([boards.planes(rows).reshape(50, -1), boards.pieces(after).reshape(50, -1)])
    assert np.array_equal(shared.layer(0, which), both)
    trained_network, blank = (frozen(needs["network"], device=CPU, random=random) for random in (None, 3))
    for network, changes in ((trained_network, {}), (blank, {"features": "random", "seed": 3})):
        shared, *_ = parts(needs, layer=1, **changes)
        _, wanted, _ = network.layers(network.encode(rows))
        assert torch.equal(shared.layer(1, which), wanted.flatten(1).half().float())
    assert not torch.equal(blank.input[0].weight, trained_network.input[0].weight)


def test_a_stop_leaves_the_open_runs(needs) -> None:
    recorders = [MemoryRecorder() for _ in range(3)]
    runs = [
        Run(probe(target=target), recorder, None, needs)
        for target, recorder in zip(("from", "to", "lens"), recorders, strict=True)
    ]
    asked = itertools.count()
    assert not RUNNER.train(runs, device=CPU, stop=lambda: next(asked) >= 2, checkpoint_every_s=60)
    assert [recorder.outcome for recorder in recorders] == ["done", "done", None]


def test_a_layer_that_the_network_lacks_is_refused(needs) -> None:
    with pytest.raises(
        ConfigError, match="layer: 3 is beyond the network's last block, 2; give a layer from 0 to 2"
    ):
        measured(needs, layer=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": "input", "layer": 1},
        {"features": "next", "layer": 1},
        {"target": "board", "ply": 2},
        {"target": "move", "moves": "stockfish", "ply": 3},
        {"target": "lens", "ply": 2},
        {"target": "tuned", "penalty": 1.0},
        {"penalty": 1e-8},
        {"target": "lens", "moves": "stockfish"},
        {"target": "cause", "features": "random"},
        {"target": "tuned", "shuffled": True},
    ],
)
def test_values_that_contradict_each_other(changes) -> None:
    with pytest.raises(ConfigError):
        probe(**changes)
