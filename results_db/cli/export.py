"""The command `export`: the runs of a store as files for other programs."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from results_db.cli import options
from results_db.contract import StoreError
from results_db.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Parquet needs pyarrow: pip install 'imagine-sweep[parquet]'.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@options.choice_options()
def export(*, folder: Path, kind: str, force: bool, choice: options.Choice) -> None:
    """Write runs, traces and samples into FOLDER, for other programs.

    runs.csv has a row for each run, with its config and metrics; traces.csv has a row for each traced value;
    samples/RUN.NAME.npz are their samples.

    Example: imagine-results export table3 --where 'seed<5' --format parquet
    """
    paths = {name: folder / f"{name}.{kind}" for name in ("runs", "traces")}
    boards = folder / "samples"
    if there := [str(path) for path in (*paths.values(), boards) if path.exists() and not force]:
        raise StoreError(f"{', '.join(there)}: exists; overwrite with --force, or name another folder")
    with choice.reading() as store:
        runs = choice.of(store.runs())
        if runs.empty:
            raise StoreError(f"no run{choice} to export; see imagine-results runs")
        frames = {"runs": runs, "traces": store.trace_frame(runs["run_id"])}
        contents = {paths[name]: _content(frame, kind) for name, frame in frames.items()}
        samples = 0
        try:
            shutil.rmtree(boards, ignore_errors=True)
            for path, content in contents.items():
                write_atomically(path, content)
            for run_id in runs["run_id"]:
                for name, npz in store.samples(run_id).items():
                    write_atomically(boards / f"{run_id}.{name}.npz", npz)
                    samples += 1
        except OSError as error:
            raise StoreError(f"cannot write into {folder}: {error.strerror}; name another folder") from None
    traced = len(frames["traces"])
    click.echo(f"{folder}: {len(runs)} runs, {traced:,} traced values, {samples} samples")


def _content(frame: "pd.DataFrame", kind: str) -> bytes:
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    try:
        content: bytes = frame.to_parquet(index=False)
    except ImportError:
        raise StoreError(
            "--format parquet needs pyarrow; run: pip install 'imagine-sweep[parquet]'"
        ) from None
    return content
