"""Everything about the trainer on a GPU, in under ten minutes.

    python benchmarks/gpu.py           # into benchmarks/results.json
    python benchmarks/gpu.py --cpu     # tiny, on the CPU; kept nowhere

It first checks that all ways and precisions train the same, then measures them.
Ways: `plain` is PyTorch's own operations, `triton` kernels of our own, `graphs`
CUDA graphs, as in IMAGINE_GPU. A rate is in run-steps per second: steps times
runs. Exit code: 1 if two ways do not agree, 2 without a GPU.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from floor import operations
from results import FILE, record
from torch import Tensor

from imagination import registry
from imagination.life import sampler
from imagination.life.config import LifeStateConfig
from imagination.life.state import LifeState
from imagination.schema import rebuild
from imagination.training import pixels
from imagination.training.group import Group
from imagination.training.layers import ParameterLayout, convolutions
from imagination.training.pixels import Pixels, Tiles
from imagination.training.state import TrainState
from imagination.ways import GRAPHS, TRITON, VARIABLE
from jobs.worker import choose_device

PLAIN = "plain"
BOTH = f"{TRITON},{GRAPHS}"
RATE = "run-steps/s"
GOALS = {
    "alone": "gpu, best way of a pack, one after another in the plain way",
    "solo": "gpu, best way of a pack, one after another in the best way",
    "processes": "gpu, best way of a pack, processes that share the GPU",
    "rate": "gpu, best way and precision of a pack, 15,000 run-steps/s",
    "tf32": "gpu, best way of a pack in tf32, matrix product",
    "bfloat16": "gpu, best way of a pack in bfloat16, matrix product",
}
"""What the trainer should reach on a GPU, of packs of 64 runs; in float32, unless the name says otherwise."""
READY = "ready\n"
LIMIT_S = 540
STARTED = time.monotonic()


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        device: of all measurements.
        config: the run, 3/3 on 12x12 boards with batch 128.
        runs: of a pack.
        packs: sizes of packs, for time and memory against R.
        product: side of the matrices whose product is the ceiling.
        seconds: of a measurement; each has five. 0: one call each.
        processes: that share the GPU.
        out: file of the results.
        ways: see above.
        precisions: of training steps.
        tiles: of Triton's kernels.
    """

    device: torch.device
    config: LifeStateConfig
    runs: int
    packs: tuple[int, ...]
    product: int
    seconds: float
    processes: int
    out: Path
    ways: tuple[str, ...] = (PLAIN, TRITON, GRAPHS, BOTH)
    precisions: tuple[str, ...] = ("float32", "tf32", "bfloat16")
    tiles: tuple[Tiles, ...] = (Tiles(), Tiles(64), Tiles(256), Tiles(128, 64), Tiles(64, 64))

    @property
    def machine(self) -> str:
        """The device's name."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu, dry run"

    @property
    def operations(self) -> int:
        """Useful floating-point operations of a run's step."""
        return operations(self.config)

    def say(
        self, name: str, ours: list[float], other: list[float], *, unit: str, is_rate: bool = True
    ) -> None:
        """Records and prints a row."""
        print(
            record(name, ours, other, unit=unit, is_rate=is_rate, machine=self.machine, file=self.out),
            flush=True,
        )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a dry run at tiny sizes, on the CPU")
    parser.add_argument("--out", type=Path, help="file of the results")
    parser.add_argument("--solo", type=float, help=argparse.SUPPRESS)  # seconds of a process among several
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print(
            "there is no GPU that torch can use here; --cpu tries every part at tiny sizes", file=sys.stderr
        )
        raise SystemExit(2)
    if options.cpu and os.environ.get("TRITON_INTERPRET") != "1":  # before anything imports Triton
        os.environ["TRITON_INTERPRET"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        usual = Path(folder, FILE.name) if options.cpu else FILE
        plan = (_tiny if options.cpu else _full)(options.out or usual)
        if options.solo:
            _alone(plan, options.solo)
        else:
            _measure(plan)


def _measure(plan: Plan) -> None:
    torch.set_num_threads(1)
    agrees = _agreement(plan)
    ceilings = _ceilings(plan)
    for part in (_draws, _ways, _packs, _processes, _ending, _stacks):
        if _is_late():
            print(f"no time was left for {part.__name__[1:]}")
            continue
        part(plan, ceilings)
    print(f"{time.monotonic() - STARTED:.0f} s on {plan.machine}")
    raise SystemExit(0 if agrees else 1)


def _full(out: Path) -> Plan:
    values = {**registry.preset("life_state", "fast"), "board": 12, "batch": 128, "gan": "posthoc"}
    config: LifeStateConfig = rebuild(LifeStateConfig, values)
    packs = (1, 2, 4, 8, 16, 32, 64, 128)
    return Plan(choose_device("cuda"), config, 64, packs, 8192, 0.4, 8, out)


def _tiny(out: Path) -> Plan:
    config = LifeStateConfig(
        gol=2, model_t=2, channels=2, step_layers=1, board=3, batch=1, gan="posthoc", optimizer="muon",
        eval_board=3, eval_sequences=2, max_steps=4, eval_every=2, trace_every=2, adv_steps=2,
    )  # fmt: skip
    plan = Plan(choose_device("cpu"), config, 2, (2,), 32, 0.0, 2, out)
    return replace(plan, ways=(PLAIN, BOTH), precisions=("float32", "bfloat16"), tiles=(Tiles(16, 16, 16),))


# --- what a measurement is ---


@contextmanager
def _asked(way: str) -> Iterator[None]:
    os.environ[VARIABLE] = "" if way == PLAIN else way
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)


def _wait(plan: Plan) -> None:
    if plan.device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(plan: Plan, work: Callable[[], object]) -> list[float]:
    """Seconds of a call, five times, each a mean over as many calls as fit."""

    def mean(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        _wait(plan)
        return (time.perf_counter() - started) / calls

    if not plan.seconds:
        return [mean(1)]
    mean(6)
    calls = max(1, int(plan.seconds / mean(1)))
    return [mean(calls) for _ in range(5)]


def _is_late() -> bool:
    return time.monotonic() - STARTED > LIMIT_S


def _group(plan: Plan, runs: int, *, precision: str = "float32", stage: int = 0) -> Group:
    """A fresh pack at the beginning of this stage."""
    configs = [replace(plan.config, seed=seed, precision=precision) for seed in range(runs)]
    experiment: Any = LifeState(configs, plan.device)
    for _ in range(stage):
        experiment = experiment.next_stage()
    return Group(experiment, TrainState.initial(experiment), range(runs))


def _stepper(plan: Plan, runs: int, **options: Any) -> Callable[[], object]:
    """Makes a step of a fresh pack."""
    return _group(plan, runs, **options).step


def _rate(plan: Plan, runs: int, way: str, **options: Any) -> list[float]:
    """Run-steps per second."""
    with _asked(way):
        return [runs / seconds for seconds in _seconds(plan, _stepper(plan, runs, **options))]


# --- what is right ---


def _agreement(plan: Plan) -> bool:
    """Whether every way and precision trains the same, and what stopped and resumed is the same to the bit."""
    agrees = True
    for stage in (0, 1):
        wanted: Tensor | None = None
        for precision in plan.precisions:
            for way in plan.ways:
                found = _parameters(plan, way, precision, stage=stage)
                wanted = found if wanted is None else wanted
                far = float((found - wanted).norm() / wanted.norm())
                same = torch.equal(found, _parameters(plan, way, precision, stage=stage))
                agrees &= same and far < (1e-3 if precision == "float32" else 0.05)
                bits = "equal" if same else "OTHER"
                print(f"stage {stage}, {way}, {precision}: {far:.1e} from plain float32, {bits} bits again")
    return agrees


def _parameters(plan: Plan, way: str, precision: str, *, stage: int) -> Tensor:
    """The parameters of a pack after 20 steps of this stage."""
    with _asked(way):
        group = _group(plan, min(3, plan.runs), precision=precision, stage=stage)
        for step in range(20 if plan.seconds else 1):
            group.step(traced=step % 5 == 0)
        return group.state.parameters.cpu()


# --- what is fast ---


def _ceilings(plan: Plan) -> dict[str, float]:
    """The rate of matrix products in every precision, in FLOP/s."""
    found = {}
    for precision in plan.precisions:
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(plan.product, plan.product, device=plan.device, dtype=kind) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        times = _seconds(plan, lambda a=a, b=b: a @ b)  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = False
        found[precision] = 2 * plan.product**3 / statistics.median(times)
        print(f"matrix product, {precision}: {found[precision] / 1e12:.1f} TFLOP/s", flush=True)
    return found


def _draws(plan: Plan, ceilings: dict[str, float]) -> None:
    """The random numbers of a step: boards of a pack."""
    seeds = torch.arange(plan.runs, device=plan.device)
    boards = sampler.fresh(seeds, seeds, batch=plan.config.batch, board=plan.config.board)
    reset = torch.full((plan.runs,), 0.1, dtype=torch.float64, device=plan.device)
    found = {}
    for way in (TRITON, PLAIN):
        with _asked(way):
            found[way] = _seconds(plan, lambda: sampler.advance(boards, seeds, reset, seeds))
    plan.say("gpu: next boards, Triton, plain", found[TRITON], found[PLAIN], unit="s", is_rate=False)


def _stacks(plan: Plan, ceilings: dict[str, float]) -> None:
    """The convolutions of a timestep, forward and backward: Triton with several tiles, cuDNN in both layouts."""
    c, runs = plan.config, plan.runs
    experiment = LifeState([replace(c, seed=seed) for seed in range(runs)], plan.device)
    layout = ParameterLayout(experiment.network.layout.shapes)
    parameters = experiment.initial_parameters()[:, : layout.size].requires_grad_()
    named = layout.unpack(parameters)
    folded = torch.randn(c.batch, runs * c.channels, c.board, c.board, device=plan.device)
    apart = folded.unflatten(1, (runs, -1)).permute(1, 0, 3, 4, 2).contiguous()
    # Gradients of the input as well, as in every timestep but the first.
    useful = 3 * 18 * c.batch * c.board**2 * c.step_layers * c.channels**2 * runs

    def rates(x: Tensor, precision: str, *, by_triton: bool) -> list[float]:
        x = x.requires_grad_()

        def work() -> None:
            with torch.autocast(plan.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                given = Pixels(x) if by_triton else x
                y = convolutions(named, "step", given, layers=c.step_layers, residual=True)
            values = y if isinstance(y, Tensor) else y.unfold()
            torch.autograd.grad(values.float().sum(), [x, parameters])

        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        found = [useful / seconds / 1e12 for seconds in _seconds(plan, work)]
        torch.backends.cudnn.allow_tf32 = False
        return found

    for precision in plan.precisions:
        usual = rates(folded, precision, by_triton=False)
        last = rates(folded.contiguous(memory_format=torch.channels_last), precision, by_triton=False)
        plan.say(f"gpu: step network, {precision}, cuDNN channels-last, default", last, usual, unit="TFLOP/s")
        for tiles in plan.tiles[:1] if precision == "float32" else plan.tiles:
            if _is_late():
                break
            pixels.TILES = tiles
            name = f"gpu: step network, {precision}, Triton {tiles.pixels}x{tiles.width}x{tiles.depth}, cuDNN"
            plan.say(name, rates(apart, precision, by_triton=True), usual, unit="TFLOP/s")
        pixels.TILES = Tiles()


def _ways(plan: Plan, ceilings: dict[str, float]) -> None:
    """Run-steps per second of a whole pack, in both stages, beside plain runs one after another."""
    solo = _rate(plan, 1, PLAIN)
    best_solo = max((_rate(plan, 1, way) for way in plan.ways), key=statistics.median)
    best: dict[str, list[float]] = {}
    for precision in plan.precisions:
        for way in plan.ways:
            if best and _is_late():
                break
            rate = _rate(plan, plan.runs, way, precision=precision)
            name = f"gpu: {plan.runs} runs, {way}, {precision}"
            plan.say(f"{name}, beside one after another", rate, solo, unit=RATE)
            best[precision] = max(best.get(precision, rate), rate, key=statistics.median)
        ceiling = [ceilings[precision] / 1e12] * len(solo)
        if precision in GOALS and precision in best:
            useful = [each * plan.operations / 1e12 for each in best[precision]]
            plan.say(GOALS[precision], useful, ceiling, unit="TFLOP/s")
    fastest = max(best.values(), key=statistics.median)
    usual = best["float32"]  # as the runs beside it
    for kind, ours, other in (
        ("alone", usual, solo),
        ("solo", usual, best_solo),
        ("rate", fastest, [15_000.0] * len(solo)),
    ):
        plan.say(GOALS[kind], ours, other, unit=RATE)
    adversary = _rate(plan, plan.runs, PLAIN, stage=1)
    for way in plan.ways[1:]:
        if _is_late():
            break
        rate = _rate(plan, plan.runs, way, stage=1)
        plan.say(f"gpu: adversary of {plan.runs} runs, {way}, plain", rate, adversary, unit=RATE)


def _packs(plan: Plan, ceilings: dict[str, float]) -> None:
    """Time and peak memory against R."""
    solo, alone = _rate(plan, 1, PLAIN), 0.0
    for way in (PLAIN, BOTH):
        for runs in plan.packs:
            if _is_late():
                return
            if plan.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            rate = _rate(plan, runs, way)
            plan.say(f"gpu: {runs} runs, {way}, beside one alone", rate, solo, unit=RATE)
            if plan.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated() / 2**20
                alone = peak if runs == 1 else alone
                name = f"gpu: memory of {runs} runs, {way}, so many times one alone"
                plan.say(name, [peak], [runs * alone], unit="MiB", is_rate=False)


def _processes(plan: Plan, ceilings: dict[str, float]) -> None:
    """A pack beside several processes that share the GPU, each with one run."""
    command = [sys.executable, __file__, *(["--cpu"] if plan.device.type == "cpu" else [])]
    words = [*command, "--solo", "15" if plan.seconds else ".5"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(words, **pipes) for _ in range(plan.processes)]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == READY
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    together = sum(float(process.communicate()[0]) for process in started)
    best = max((_rate(plan, plan.runs, way) for way in plan.ways), key=statistics.median)
    plan.say(GOALS["processes"], best, [together] * len(best), unit=RATE)


def _alone(plan: Plan, length: float) -> None:
    """Says that it is ready, waits for a line, and prints the steps per second of one run in `length` seconds."""
    with _asked(PLAIN):
        step = _stepper(plan, 1)
        for _ in range(6):
            step()
        _wait(plan)
        print(READY, end="", flush=True)
        sys.stdin.readline()
        started, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - started < length:
            step()
            steps += 1
            if steps % 10 == 0:
                _wait(plan)
        _wait(plan)
        print(steps / (time.perf_counter() - started))


def _ending(plan: Plan, ceilings: dict[str, float]) -> None:
    """The evaluation of a run that ended, beside its training in a pack, and that of runs that end together."""
    training = [plan.config.max_steps / rate for rate in _rate(plan, plan.runs, PLAIN)]
    for way in (PLAIN, TRITON):
        alone, together = (_evaluation(plan, runs, way) for runs in (1, plan.runs))
        shares = [seconds / plan.runs for seconds in together]
        plan.say(f"gpu: evaluation of a run, {way}, its training", alone, training, unit="s", is_rate=False)
        name = f"gpu: evaluation of a run, {plan.runs} together, {way}, alone"
        plan.say(name, shares, alone, unit="s", is_rate=False)


def _evaluation(plan: Plan, runs: int, way: str) -> list[float]:
    """Seconds of an evaluation of so many runs together."""
    with _asked(way):
        experiment = LifeState([replace(plan.config, seed=seed) for seed in range(runs)], plan.device)
        weights = experiment.layout.unpack(experiment.initial_parameters())
        return _seconds(plan, lambda: experiment.evaluate(weights))


if __name__ == "__main__":
    main()
