"""Shell completion, asked by a real bash as when TAB is pressed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sweep_helpers import SWEEP

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
]


def offered(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    program = words[0].replace("-", "_")
    script = [
        f'eval "$(_{program.upper()}_COMPLETE=bash_source {words[0]})"',
        'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))',
        f"_{program}_completion {words[0]}",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    path = f"{Path(SWEEP).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(script), "bash", *words],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("imagine-sweep re", ["reconcile", "retry"]),
        ("imagine-sweep plan tab", ["table1", "table2", "table3", "table4"]),
        ("imagine-sweep status coder", ["coder_layers"]),
        ("imagine-sweep launch table1 enc", ["enc_layers="]),
        ("imagine-sweep launch table1 --dry-run ru", ["runs="]),
        ("imagine-sweep logs --fol", ["--follow"]),
        ("imagine-sweep nonsense re", ["reconcile", "retry"]),  # no error
        ("imagine-results table --group gol,model", ["gol,model_t"]),
        ("imagine-results runs --where train", ["train_accuracy"]),
        ("imagine-results compare sig", ["signs"]),
        ("imagine-results figure st", ["steps", "strip"]),
    ],
)
def test_commands_specs_keys_columns_and_tables_are_offered(tmp_path, words, wanted) -> None:
    assert offered(tmp_path, *words.split()) == wanted
    assert list(tmp_path.iterdir()) == []
