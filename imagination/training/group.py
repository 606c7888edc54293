"""Runs that train together in one stage: their tensors, and a step of all of them.

What a step computes stays in place on the device. The host keeps what it needs to start steps.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from imagination.training import graphs
from imagination.training.experiment import Experiment, Forward
from imagination.training.state import TrainState


class Group:
    """R runs in one stage.

    Args:
        experiment: the runs in this stage.
        state: their state.
        places: by row of the tensors, the run's place in the pack.
        free: rows whose runs have left. They train on, and nothing is recorded.

    Attributes:
        experiment, state, places: as given.
        free: as given; the trainer adds the row of a run that leaves.
        steps, earlier: by row, its updates in this stage and in earlier ones.
        names: of the values that a traced step returns.
        is_torn: whether the state is between two steps.
    """

    def __init__(
        self, experiment: Experiment, state: TrainState, places: Sequence[int], free: Collection[int] = ()
    ) -> None:
        self.places, self.free = list(places), set(free)
        # On the host, so that no read waits.
        self.steps: list[int] = state.step.tolist()
        self.earlier: list[int] = state.earlier.tolist()
        self.names: list[str] = []
        self.is_torn = False
        self.experiment, self.state = experiment, state
        self._step_with = experiment, experiment.optimizers()
        self._graphs = graphs.Graphs(experiment.device)

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        states: Sequence[TrainState],
        places: Sequence[int],
        free: Collection[int] = (),
    ) -> "Group":
        """The group of runs with these states, each `[1, ...]` with the columns of its own network."""
        wide = [_widened(state, experiment, row) for row, state in enumerate(states)]
        return cls(experiment, TrainState.joined(wide), places, free)

    def run(self, row: int, *, state: TrainState | None = None) -> TrainState:
        """A run's state `[1, ...]` with the columns of its own network, from a copy of the group's state, if given."""
        found = (state or self.state).select([row])
        layout, own = self.experiment.layout, self.experiment.layout_of(row)
        return found if own is layout else found.narrowed(layout.columns_of(own))

    @property
    def training(self) -> list[tuple[int, int]]:
        """Row and place of each run that trains."""
        return [(row, place) for row, place in enumerate(self.places) if row not in self.free]

    @property
    def lacks_graphs(self) -> bool:
        """Whether graphs were asked for, and its steps go on without."""
        return self._graphs.has_failed

    def step(self, *, traced: bool = False) -> Tensor | None:
        """Starts a step of every run. With `traced` the traced values from before it, float64 `[names, R]`."""
        values = self._graphs.run(self._update, traced=traced)
        self.steps = [step + 1 for step in self.steps]
        return values

    def _update(self, traced: bool) -> Tensor | None:
        """The device's work of a step. All tensors of the state stay where they are."""
        (experiment, optimizers), state = self._step_with, self.state
        parameters = state.parameters.detach().requires_grad_()
        with experiment.products():
            forward = experiment.forward(parameters, state.data, state.step)
            (gradient,) = torch.autograd.grad(forward.loss.sum(), parameters)
        values = self._traced(forward) if traced else None
        self.is_torn = not self._graphs.is_capturing
        for columns, optimizer in optimizers:
            optimizer.update(
                state.parameters[:, columns],
                gradient[:, columns],
                mean=state.mean[:, columns],
                variance=state.variance[:, columns],
                steps=state.step,
            )
        state.step += 1
        if forward.accuracy is not None:  # a later stage keeps the accuracy of the first stage's end
            state.interval += 1
            state.accuracy_sum += forward.accuracy
        state.data.copy_(experiment.next_data(forward.carry, state.step))
        self.is_torn = False
        return values

    @torch.no_grad()
    def _traced(self, forward: Forward) -> Tensor:
        named = forward.traced()
        self.names = list(named)
        return torch.stack([value.double() for value in named.values()])

    def intervals(self) -> tuple[list[float], list[bool], list[int]]:
        """By row: the mean accuracy of its interval, whether its parameters are finite, its interval's batches."""
        state = self.state
        accuracy, finite = state.accuracy_sum / state.interval, state.parameters.isfinite().all(1)
        found = torch.stack([accuracy, finite.double(), state.interval.double()]).tolist()
        return found[0], [bool(each) for each in found[1]], [int(each) for each in found[2]]

    def begin_intervals(self, rows: Sequence[int]) -> None:
        """Begins another interval of these rows."""
        self.state.accuracy_sum[rows] = 0
        self.state.interval[rows] = 0

    def compacted(self) -> "Group":
        """A group without the rows of runs that have left, or this one. This one stays as it is."""
        training = [row for row, _ in self.training]
        wanted = graphs.rows(len(training), self.experiment.device)
        if wanted >= len(self.places):
            return self
        kept = sorted(training + sorted(self.free)[: wanted - len(training)])
        free = [row for row, before in enumerate(kept) if before in self.free]
        return Group(*self.part(kept), [self.places[row] for row in kept], free)

    def part(self, rows: Sequence[int]) -> tuple[Experiment, TrainState]:
        """The experiment of these rows, and a copy of their state, as wide as the widest of them."""
        experiment, state = self.experiment.select(rows), self.state.select(rows)
        if experiment.layout.size < self.experiment.layout.size:
            state = state.narrowed(self.experiment.layout.columns_of(experiment.layout))
        return experiment, state

    def seats(self, entering: Sequence[int]) -> list[int] | None:
        """The places by row if runs with these places take free rows; None: there are too few."""
        if len(entering) > len(self.free):
            return None
        taken = dict(zip(sorted(self.free), entering, strict=False))
        return [taken.get(row, place) for row, place in enumerate(self.places)]

    def admit(self, experiment: Experiment, places: Sequence[int], states: Mapping[int, TrainState]) -> bool:
        """Lets runs enter in free rows. All tensors stay where they are, so graphs of the step stay valid.

        Args:
            experiment: the runs in this stage with `places`.
            places: from `seats`.
            states: by place, the state `[1, ...]` of each run that enters, with the columns of its own network.

        Returns:
            False: a step of `experiment` does something else, and nothing has changed.
        """
        try:
            pairs = list(graphs.pairs(self._step_with, (experiment, experiment.optimizers())))
        except ValueError:
            return False
        entering = {
            row: _widened(states[place], experiment, row)
            for row, place in enumerate(places)
            if row in self.free and place in states
        }
        counts = {row: (int(state.step), int(state.earlier)) for row, state in entering.items()}
        # From here on nothing takes memory, so nothing may fail.
        for mine, other in pairs:
            mine.copy_(other)
        for row, state in entering.items():
            self.state.put(row, state)
            self.steps[row], self.earlier[row] = counts[row]
        self.free -= entering.keys()
        self.experiment, self.places = experiment, list(places)
        return True


def _widened(state: TrainState, experiment: Experiment, row: int) -> TrainState:
    """The state `[1, ...]` of this row's run with the experiment's columns, from one with those of its own network."""
    layout, own = experiment.layout, experiment.layout_of(row)
    return state if own is layout else state.widened(layout.columns_of(own))
