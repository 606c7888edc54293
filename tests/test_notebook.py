"""The code of docs/notebook.md runs, in one session, on the example store."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import results_db
from results_db.contract import StoreError

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"


def test_the_code_of_the_page(example: Path, in_tmp_path: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("outputs").mkdir()
    shutil.copy(example, "outputs/imagine.db")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert len(names["three"]) > 20
    assert re.fullmatch(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]\n", capsys.readouterr().out)
    assert list(names["means"].columns) == ["mean", "count"]
    assert len(names["difference"]) > 5
    assert names["curves"].shape[1] == len(names["three"])
    assert names["decoded"].shape[1:] == (4, 20, 20)
    assert {path.suffix for path in Path("outputs").iterdir()} == {".db"}  # nothing was created


@pytest.mark.parametrize("name", ["here.txt", "text.db"])
def test_bad_input_raises_one_line(in_tmp_path: None, name: str) -> None:
    Path("text.db").write_text("no database, but long enough to be read as one" * 20)
    with pytest.raises(StoreError) as raised, results_db.open(name):
        pass
    assert "\n" not in str(raised.value)
