"""The known columns of a run, in the order in which listings show them. Other columns of a store follow.

`results_db` does not import `imagination`; a test checks that these names and values are those of its configs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from results_db.contract import Scalar, StoreError
from results_db.text import nearest

LABELS = ("tag", "note")
"""What users added to a run; `tag` names its tags, see `names_in`."""

RUN_COLUMNS = ("run_id", "sweep", "state", "outcome", "attempts", "seconds", *LABELS)
"""`sweep` names the sweeps of a run, see `names_in`."""

CONFIG_COLUMNS = (
    "experiment", "preset", "gol", "model_t", "ae", "rnn", "gan", "channels", "enc_layers", "step_layers",
    "dec_layers", "lstm_layers", "count_layers", "kernel", "residual", "reset", "board", "batch",
    "optimizer", "lr", "muon_lr", "schedule", "warmup", "decay", "loss", "count_weight", "clip", "clip_by",
    "precision", "max_steps", "eval_every", "trace_every", "accuracy", "give_up_at", "give_up_accuracy",
    "adv_steps", "adv_weight", "adv_ramp", "adv_layers", "adv_lr", "disc_layers", "disc_width", "disc_lr",
    "eval_board", "eval_sequences", "seed",
)  # fmt: skip

BEFORE: Mapping[str, Scalar] = {}
"""The value of a config key in runs that were stored before the key existed."""

METRIC_COLUMNS = (
    "metric", "metric_plain", "metric_adv", "metric_dataset", "metric_slip", "correlation",
    "correlation_plain", "correlation_adv", "correlation_aligned", "correlation_aligned_adv",
    "train_accuracy", "eval_accuracy", "autoencoder_accuracy", "aligned_accuracy", "baseline_repeat",
    "baseline_dead", "baseline_shifted", "baseline_perfect", "steps",
)  # fmt: skip

ADDED = ("code", "host", "cause")
"""Columns that some commands add after the metrics: what trained a run, and why it failed."""

COLUMNS = (*RUN_COLUMNS, *CONFIG_COLUMNS, *METRIC_COLUMNS)


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known names in their order, then the other `names`, sorted."""
    return [*known, *sorted(set(names) - set(known))]


def config_keys(names: Iterable[str]) -> list[str]:
    """The columns of `Store.runs` that are config keys. They stand before the metrics."""
    before = takewhile(lambda name: name != METRIC_COLUMNS[0], names)
    return [name for name in before if name not in RUN_COLUMNS]


def check_metric(name: str, names: Sequence[str], *, origin: str = "--metric") -> None:
    """Refuse a name that is none of the metrics among these columns of `Store.runs`.

    Raises:
        StoreError: see `check`.
    """
    metrics = names[names.index(METRIC_COLUMNS[0]) :]
    check(name, [one for one in metrics if one not in ADDED], origin=origin)


def names_in(cell: str | None) -> list[str]:
    """The names in a cell of the columns `sweep` and `tag`: `"quick, table1"`."""
    return cell.split(", ") if cell else []


def check(name: str, valid: Sequence[str], *, origin: str) -> None:
    """Refuse an unknown column.

    Raises:
        StoreError: `name` is not in `valid`.
    """
    if name not in valid:
        hint = nearest(name, valid)
        raise StoreError(f"{origin}: unknown column '{name}'{hint}; valid columns: {', '.join(valid)}")


def run_prefix(text: str, *, origin: str) -> str:
    """The first characters of a run id, in lower case.

    Raises:
        StoreError: `text` is empty, or not hexadecimal.
    """
    prefix = text.lower()
    if not prefix or set(prefix) - set("0123456789abcdef"):
        raise StoreError(
            f"{origin}: '{text}' is not the beginning of a run id (0-9, a-f); list the ids with: imagine-results runs"
        )
    return prefix
