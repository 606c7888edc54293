"""The command `report`: one HTML file with the tables, figures and pictures of a store."""

from pathlib import Path

import click

from results_db.cli import options
from results_db.contract import StoreError
from results_db.files import write_atomically
from results_db.views.figures import files


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Write this file, an .html.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--title", default="The paper and our runs", show_default=True, help="The page's title.")
@click.option(
    "-n",
    "most",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    metavar="N",
    help="Most runs in the gallery.",
)
@options.choice_options(gate=True)
def report(
    *,
    output: Path,
    force: bool,
    title: str,
    most: int,
    choice: options.Choice,
) -> None:
    """Write one HTML page that opens offline: the paper's tables beside ours, figures, and a gallery.

    The gallery shows what the experiments declare of their kept runs. It can be filtered and sorted, and each run
    stepped through.

    Example: imagine-results report -o report.html --where preset=fast
    """
    from results_db.report.collect import collect
    from results_db.report.page import page

    files.check(output, force=force, endings=(".html",))
    with choice.reading() as store:
        frame = choice.of(store.runs())
        found = collect(store, frame, most_runs=most, gate=choice.gate)
    text = page(found, title=title)
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise StoreError(f"cannot write {output}: {error.strerror}; name another file with -o") from None
    click.echo(f"{output}: {len(found.runs)} runs in the gallery, {len(text) / 1e6:.1f} MB")
