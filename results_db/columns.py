"""The columns of a run, in the order in which listings show them. A store may hold more; those follow.

`results_db` does not import `imagination`; a test holds these names against its configs.
"""

from collections.abc import Iterable, Sequence

from results_db.contract import StoreError
from results_db.text import nearest

RUN_COLUMNS = ("run_id", "state", "outcome", "attempts", "seconds")

CONFIG_COLUMNS = (
    "experiment",
    "preset",
    "gol",
    "model_t",
    "ae",
    "rnn",
    "gan",
    "channels",
    "enc_layers",
    "step_layers",
    "dec_layers",
    "lstm_layers",
    "count_layers",
    "kernel",
    "residual",
    "reset",
    "board",
    "batch",
    "optimizer",
    "lr",
    "muon_lr",
    "schedule",
    "warmup",
    "decay",
    "loss",
    "count_weight",
    "clip",
    "clip_by",
    "precision",
    "max_steps",
    "eval_every",
    "trace_every",
    "accuracy",
    "give_up_at",
    "give_up_accuracy",
    "adv_steps",
    "adv_weight",
    "adv_ramp",
    "adv_layers",
    "adv_lr",
    "disc_layers",
    "disc_width",
    "disc_lr",
    "eval_board",
    "eval_sequences",
    "seed",
)

METRIC_COLUMNS = (
    "metric",
    "metric_plain",
    "metric_adv",
    "metric_dataset",
    "metric_slip",
    "correlation",
    "correlation_plain",
    "correlation_adv",
    "correlation_aligned",
    "correlation_aligned_adv",
    "train_accuracy",
    "eval_accuracy",
    "autoencoder_accuracy",
    "aligned_accuracy",
    "baseline_repeat",
    "baseline_dead",
    "baseline_shifted",
    "steps",
)


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The known names in their order, then those of `names` that are not known, sorted."""
    return [*known, *sorted(set(names) - set(known))]


def check(name: str, valid: Sequence[str], *, origin: str) -> None:
    """Refuses a column that is not there.

    Raises:
        StoreError: `name` is not in `valid`.
    """
    if name not in valid:
        hint = nearest(name, valid)
        raise StoreError(f"{origin}: unknown column '{name}'{hint}; valid columns: {', '.join(valid)}")


def run_prefix(text: str, *, origin: str) -> str:
    """The beginning of a run id, in small letters.

    Raises:
        StoreError: no run id begins so.
    """
    prefix = text.lower()
    if not prefix or set(prefix) - set("0123456789abcdef"):
        raise StoreError(
            f"{origin}: '{text}' is no run id: its first characters, of 0-9 and a-f; see imagine-results runs"
        )
    return prefix
