"""The store describes its experiments, and knows what runs leave as files and build on.

Revises 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SHARED = [
    "gan", "channels", "enc_layers", "step_layers", "dec_layers", "lstm_layers", "count_layers", "kernel", "residual",
    "reset", "board", "batch", "optimizer", "lr", "muon_lr", "schedule", "warmup", "decay", "loss",
    "count_weight", "clip", "clip_by", "precision", "max_steps", "eval_every", "trace_every", "accuracy",
    "give_up_at", "give_up_accuracy", "adv_steps", "adv_weight", "adv_ramp", "adv_layers", "adv_lr",
    "disc_layers", "disc_width", "disc_lr", "eval_board", "eval_sequences", "seed",
]  # fmt: skip
_STATE_ONLY = {"ae", "rnn", "step_layers", "residual", "loss", "eval_board"}
_COUNT_ONLY = {"lstm_layers", "count_layers", "count_weight", "disc_layers", "disc_width"}
_CELLS = ["gol", "model_t", "ae", "rnn"]
_SHOWN = {
    "metric", "metric_plain", "metric_adv", "correlation", "correlation_plain", "correlation_adv",
    "correlation_aligned",
}  # fmt: skip
_METRICS = {
    "life_state": [
        "metric", "metric_plain", "metric_adv", "metric_dataset", "metric_slip", "train_accuracy", "eval_accuracy",
        "autoencoder_accuracy", "aligned_accuracy", "baseline_repeat", "baseline_dead", "baseline_shifted",
        "baseline_perfect", "steps",
    ],
    "life_count": [
        "correlation", "correlation_plain", "correlation_adv", "correlation_aligned", "correlation_aligned_adv",
        "train_accuracy", "eval_accuracy", "autoencoder_accuracy", "baseline_repeat", "baseline_perfect", "steps",
    ],
}  # fmt: skip


def _declared(name: str, *, without: set[str], gate: float) -> dict[str, object]:
    """What version 0.3 knew of its two experiments; a launch replaces it."""
    cells = [key for key in _CELLS if key not in without]
    return {
        "keys": ["experiment", "preset", *cells, *(key for key in _SHARED if key not in without)],
        "cells": cells,
        "metrics": dict.fromkeys(_METRICS[name], ""),
        "shown": [key for key in _METRICS[name] if key in _SHOWN],
        "gate": ["train_accuracy", gate],
        "needs": [],
        "before": {},
    }


def upgrade() -> None:
    """To this revision."""
    experiment = op.create_table(
        "experiment",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("declared", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_experiment"),
    )
    op.create_table(
        "artifact",
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_artifact_run_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", "name", name="pk_artifact"),
    )
    op.create_table(
        "need",
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("needed", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="fk_need_run_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", "key", name="pk_need"),
    )
    op.create_index("ix_need_needed", "need", ["needed"])
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM run")):
        op.bulk_insert(
            experiment,
            [
                {"name": "life_state", "declared": _declared("life_state", without=_COUNT_ONLY, gate=0.99)},
                {"name": "life_count", "declared": _declared("life_count", without=_STATE_ONLY, gate=0.999)},
            ],
        )
