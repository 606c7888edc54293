"""What an experiment's own figures and analyses get and give. Torch-free.

A declaration names them. `results_db` finds the runs, makes a command of each, and writes the files.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from imagination.schema import Scalar, require

if TYPE_CHECKING:  # slow to import
    import numpy as np
    from matplotlib.figure import Figure

    from imagination.recorder import Arrays

Traces = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Trace name to (steps, values), equally long."""

COLUMN = 3.25
"""Width of a paper's column, in inches."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart. It repeats from the eighth line on."""

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize", "legend.title_fontsize"), 7),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 6.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1,
    "legend.labelspacing": 0.25,
}
"""The sizes of text and lines of figures with axes."""


class FigureError(Exception):
    """A figure cannot be drawn: one line that says why and what to do."""


class Stored(Protocol):
    """A run of a store, as figures read it.

    Attributes:
        run_id: its whole id.
        name: its id as listings show it.
        state: its state.
        outcome: why it ended; None if it has no result.
        config: its config.
        metrics: its metrics that have a value.
        tag: its tags, `final, odd`; None without.
        note: its note; None without.
        is_named: whether the user named it. A figure of several runs leaves a run out that it cannot show, but says so
            of a named one.
    """

    run_id: str
    name: str
    state: str
    outcome: str | None
    config: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    tag: str | None
    note: str | None
    is_named: bool

    @property
    def traces(self) -> Traces:
        """Its traces; those of all runs of a figure are read at once."""

    def sample(self, name: str) -> "Arrays | None":
        """The arrays of its sample of this name; None without such a sample.

        Raises:
            FigureError: the sample is damaged.
        """

    def artifact(self, name: str) -> bytes:
        """The content of a file that it left, such as a picture.

        Raises:
            FigureError: it left nothing of this name, or the file is gone.
        """

    def arrays(self, name: str) -> "Arrays":
        """The arrays that it left as this artifact.

        Raises:
            FigureError: see `artifact`.
        """


@dataclass(frozen=True)
class Option:
    """What `--help` says of an option of a figure: `level: Annotated[float, Option("...", high=1)] = 0.5`.

    Attributes:
        help: one line.
        metavar: the word for its value.
        low: the least number allowed.
        high: the largest.
    """

    help: str
    metavar: str | None = None
    low: float | None = None
    high: float | None = None


class OwnOption(NamedTuple):
    """An option that the function of a figure or of an analysis adds to its command."""

    default: Scalar
    said: Option


def takes_one_run(function: Callable[..., Any]) -> bool:
    """Whether the function of a figure is of one run: its first parameter is then `run`, else `runs`."""
    return next(iter(inspect.signature(function).parameters)) == "run"


def own_options(function: Callable[..., Any]) -> dict[str, OwnOption]:
    """The options of a function: every parameter but the first, by name.

    Raises:
        ConfigError: it is no function of runs and options.
    """
    _require(callable(function), "it is no function")
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    is_of_runs = parameters and parameters[0].name in ("run", "runs")
    _require(is_of_runs, "its first parameter is not run or runs")
    return {one.name: _option(one) for one in parameters[1:]}


def _option(parameter: inspect.Parameter) -> OwnOption:
    said = getattr(parameter.annotation, "__metadata__", ())
    option = next((one for one in said if isinstance(one, Option)), Option(""))
    default, of = parameter.default, f"its parameter {parameter.name}"
    _require(type(default) in (bool, int, float, str), f"{of} has no default of type bool, int, float or str")
    _require(default is not True, f"{of} is True by default, so no option could change it")
    is_bounded = option.low is not None or option.high is not None
    _require(not is_bounded or type(default) in (int, float), f"{of} has bounds, but is no number")
    return OwnOption(default, option)


def check_figure(code: Any) -> None:
    """Check the code of a figure.

    Raises:
        ConfigError: see `own_options`.
    """
    own_options(code)


def check_analysis(code: Any) -> None:
    """Check the code of an analysis.

    Raises:
        ConfigError: it is no `Analysis` of a function of runs.
    """
    _require(isinstance(code, Analysis), "it is no Analysis")
    own_options(code.function)
    _require(not takes_one_run(code.function), "its function takes one run; an analysis takes runs")


def check_gallery(code: Any) -> None:
    """Check the code of a gallery.

    Raises:
        ConfigError: it is no `Gallery`.
    """
    _require(isinstance(code, Gallery), "it is no Gallery")


def _require(holds: object, message: str) -> None:
    require(bool(holds), message, keys=("experiment",))


@dataclass(frozen=True)
class Drawn:
    """What the function of a figure returns.

    Attributes:
        figure: the picture.
        facts: what `--json` says besides the name of the file.
    """

    figure: "Figure"
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows of a table, and its columns in their order."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]


@dataclass(frozen=True)
class Findings:
    """What the function of an analysis returns.

    Attributes:
        runs: the names of the runs that it is about; none if there is nothing to show.
        facts: what `--json` prints.
        table: what CSV has, with unrounded values.
        shown: the tables for people.
        draw: draws them.
    """

    runs: Sequence[str]
    facts: Mapping[str, Any]
    table: Table
    shown: Sequence[Table]
    draw: "Callable[[], Figure]"


@dataclass(frozen=True)
class Analysis:
    """Numbers of an experiment's own: a command that prints and draws them.

    Attributes:
        function: `function(runs, *, option=...)`, with a `Sequence[Stored]`. Its docstring is the command's help.
        title: what the figure shows, for the report.
        table: the table of the paper whose runs it takes unless the user chooses others; default: all kept runs.
    """

    function: Callable[..., Findings]
    title: str
    table: str = ""


@dataclass(frozen=True)
class Boards:
    """Boards of a run in the report's gallery, which shows one place of every row at a time.

    Attributes:
        name: what the choice of boards calls it; empty if it has no name.
        index: its number in the evaluation set.
        rows: what is shown to its boards, values in [0, 1] of shape `[places, H, W]`; a row that is shorter than the
            others keeps its last board.
        said: a line for each place.
        overview: how many boards of the first row the small picture of the run has, if not all.
    """

    name: str
    index: int
    rows: "Mapping[str, np.ndarray]"
    said: Sequence[str]
    overview: int | None = None


@dataclass(frozen=True)
class Gallery:
    """What the report's gallery shows of a run.

    Attributes:
        function: gives the boards of a run; a run for which it raises a `FigureError` is left out.
        about: what the pictures are, for the page.
    """

    function: Callable[[Stored], Sequence[Boards]]
    about: str
