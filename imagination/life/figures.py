"""Life's own figures, its analysis `trace`, and what the report's gallery shows. Imports nothing slow."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from imagination.figures import Analysis, Boards, Drawn, Findings, Gallery, Option, Stored
from imagination.life import learning_order

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure


def strip(
    run: Stored,
    *,
    pick: Annotated[
        str,
        Option(
            "best, median, worst, all (these three), first, or the number of a stored sequence.",
            metavar="SEQUENCE",
        ),
    ] = "all",
) -> Drawn:
    """Draw true states above decoded ones, from the first to the final one.

    A green frame marks a decoded board that matches a true state; a dashed frame marks a board that the score leaves
    out.

    Example: imagine-results figure strip 1a2b3c --pick median -o strip.svg
    """
    from imagination.life import boards
    from imagination.life.strip import draw

    sequences = boards.pick(boards.read(run), pick)
    return Drawn(draw(sequences, config=run.config), {"sequences": [one.as_dict() for one in sequences]})


def trace(
    runs: Sequence[Stored],
    *,
    similarity: Annotated[
        float,
        Option("A state is learned at the first step with this similarity.", metavar="S", low=0, high=1),
    ] = learning_order.SIMILARITY,
) -> Findings:
    """Print and draw the learning order of runs.

    The learning order tells when each state is learned, and how long before the final state.

    Example: imagine-results trace --where 'gol=4 and model_t=4' --no-plot
    """
    orders = learning_order.collect(runs, similarity=similarity)
    rows = {"runs": learning_order.run_rows(orders), "means": learning_order.mean_rows(orders)}
    return Findings(
        runs=[order.name for order in orders],
        facts={"similarity": similarity, **rows},
        table=learning_order.csv_table(orders),
        shown=learning_order.shown_tables(orders),
        draw=partial(_curves, orders, similarity=similarity),
    )


TRACE = Analysis(trace, title="Learning order: when each state is learned", table="learning_order")


def _curves(orders: Sequence[learning_order.Order], *, similarity: float) -> "Figure":
    from imagination.life import curves

    return curves.draw(orders, similarity=similarity)


def _gallery(run: Stored) -> list[Boards]:
    """The best, the median and the worst sequence, beside a live board of Life."""
    from imagination.life import boards

    return [boards.beside_life(picked) for picked in boards.pick(boards.read(run), "all")]


GALLERY = Gallery(
    _gallery,
    "Each picture is one sequence of a run: the true states above, and below them the boards that the decoders make of "
    "the hidden states. A network is trained on the first and the last board alone. Choose a run below to step through "
    "it beside a live board of Life.",
)
