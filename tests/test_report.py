"""The report page: what is on it, in a real browser."""

import base64
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from cli_helpers import call, output
from compare_helpers import config, run_id, store_run
from hypothesis import given
from hypothesis import strategies as st
from picture_helpers import step
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from require import give_up

import results_db
from results_db.contract import NewSweep, PlannedRun
from results_db.query.gate import completed, passed
from results_db.report.boards import GREYS, packed
from results_db.report.collect import collect
from results_db.report.page import page as render
from results_db.store.backup import back_up
from results_db.store.sql import open_store
from results_db.text import short

pytestmark = pytest.mark.slow

Capsys = pytest.CaptureFixture[str]

CHROMIUM = shutil.which("chromium")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_packed_boards_keep_sixteen_greys(values: list[float]) -> None:
    found = base64.b64decode(packed(np.array(values)))
    halves = [half for byte in found for half in (byte >> 4, byte & 15)][: len(values)]
    assert [
        abs(half / (GREYS - 1) - value) <= 0.5 / (GREYS - 1) + 1e-9
        for half, value in zip(halves, values, strict=True)
    ] == [True] * len(values)


@pytest.fixture(scope="module")
def kept(example: Path) -> pd.DataFrame:
    """The kept runs of the example store."""
    runs = completed(results_db.open(str(example)).runs())
    return runs[passed(runs)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, example: Path) -> Path:
    """The report of the example store."""
    from click.testing import CliRunner

    from results_db.cli.root import results

    path = tmp_path_factory.mktemp("report") / "report.html"
    done = CliRunner().invoke(
        results, ["report", "-o", str(path), "--db", str(example)], catch_exceptions=False
    )
    assert done.exit_code == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        give_up("BROWSER", "no chromium here; make browser-install installs it")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page; it may say nothing on the console, raise nothing and load nothing."""
    opened = browser.new_page()
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        said.append(message.text)

    opened.on("console", note)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: request.url.startswith("file:") or said.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    assert said == []
    opened.close()


def test_every_number_of_the_paper_with_runs_is_in_a_table(page: Page, kept: pd.DataFrame) -> None:
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    table = page.get_by_role("region", name="table1").get_by_role("row")
    expect(table).to_have_count(6)  # the head, and the five numbers of Table 1
    row = table.filter(has_text=re.compile("false\\s*true"))
    expect(row).to_contain_text("0.56")
    without = kept[(kept["ae"] == False) & (kept["gan"] == "posthoc")]  # noqa: E712
    expect(row).to_contain_text(f"{without['metric'].mean():.2f} [")
    expect(row).to_contain_text(f"{len(without)}/")
    expect(page.get_by_role("img", name="table1:")).to_be_visible()


def test_the_gallery_is_filtered_and_sorted(page: Page, kept: pd.DataFrame) -> None:
    cards, without = page.locator(".card"), kept[kept["ae"] == False]  # noqa: E712
    assert 0 < len(without) < 24 < len(kept)  # so that there are cards behind `Show more runs`
    expect(cards).to_have_count(24)
    page.get_by_role("button", name="Show more runs").click()
    expect(cards).to_have_count(min(len(kept), 48))
    page.get_by_label("ae").select_option("false")
    expect(cards).to_have_count(len(without))
    expect(page.locator("#count")).to_contain_text(
        f"{len(without)} of {len(without)} chosen runs, {len(kept)} in all"
    )
    page.locator("#order").select_option("worst first")
    scores = [float(text.split("score ")[1]) for text in cards.all_inner_texts()]
    assert scores == [round(score, 2) for score in sorted(without["metric"])]


def test_life_on_the_page_is_life(page: Page) -> None:
    """Every board of the row of Life follows from the one before, by an independent rule."""
    rows = page.evaluate(
        """() => runs.flatMap((run) => run.sequences).map((one) =>
            [one.side, unpack(one.rows["Life itself"], one.side).map((board) => [...board])])"""
    )
    assert rows
    for side, boards in rows:
        for before, after in itertools.pairwise(np.array(boards).reshape(-1, *side)):
            assert np.array_equal(step(before.astype(np.uint8)), after)


def test_a_run_is_stepped_through_by_keyboard(page: Page) -> None:
    page.get_by_label("ae").select_option("true")
    card = page.locator(".card").nth(1)
    card.focus()
    page.keyboard.press("Enter")
    name = card.inner_text().split(",")[0]
    head = page.locator("#viewer-head")
    expect(head).to_be_focused()
    expect(head).to_contain_text(name)
    said = page.locator("#said")
    expect(said).to_contain_text("State 1 of 4")
    slider = page.get_by_role("slider")
    slider.focus()
    for state in (2, 3, 4):
        page.keyboard.press("ArrowRight")
        # A run with a metric of 1.02 imagines: each decoded board is the state of its step.
        expect(said).to_contain_text(f"State {state} of 4: plain is nearest to state {state} of Life")
    page.get_by_role("button", name="Previous").press("Enter")
    expect(said).to_contain_text("State 3 of 4")
    play = page.get_by_role("button", name="Play")
    play.click()
    expect(said).to_contain_text("State 4 of 4")
    page.get_by_role("button", name="Stop").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_accessible_and_fits(browser: Browser, file: Path, scheme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(file.as_uri())
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_three_hundred_runs_stay_below_five_megabytes(file: Path, kept: pd.DataFrame) -> None:
    text = file.read_text()
    data = text[text.index('id="runs">') : text.rindex("</script>\n<script>")]
    assert len(text) - len(data) + 300 / len(kept) * len(data) < 5e6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "a.pdf"], "-o: 'a.pdf' does not end in .html"),
        (["-o", "none/a.html"], "the folder none does not exist"),
        (["--where", "gol=9"], "no COMPLETED run to report on"),
        (["--where", "goal=3"], "unknown column 'goal'"),
    ],
)
@pytest.mark.usefixtures("in_tmp_path")
def test_bad_input(capsys: Capsys, tmp_path: Path, example: Path, arguments: list[str], says: str) -> None:
    code, out, err = call(capsys, "report", "--db", str(example), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.usefixtures("in_tmp_path")
def test_an_existing_page_is_overwritten_only_by_force(
    capsys: Capsys, kept: pd.DataFrame, example: Path
) -> None:
    db = ("--db", str(example))
    first = output(capsys, "report", *db, "-n", "3", "--title", "One & <two>")
    assert first.startswith("report.html: 3 runs in the gallery, ")
    text = Path("report.html").read_text()
    assert "<title>One &amp; &lt;two&gt;</title>" in text
    assert f"{len(kept) - 3} more kept runs are in the store." in text
    code, _, err = call(capsys, "report", *db, "-n", "3")
    assert (code, "report.html exists" in err) == (2, True)
    output(capsys, "report", *db, "-n", "3", "--title", "One & <two>", "--force")
    assert Path("report.html").read_text() == text


def test_the_gallery_has_runs_with_samples(example: Path, tmp_path: Path) -> None:
    """Of a published store these are few, and chance would hardly choose them."""
    few = tmp_path / "few.db"
    with results_db.open(str(example)) as store:
        runs = completed(store.runs())
        chosen = sorted(runs[passed(runs)]["run_id"])[:2]
    back_up(str(example), few, samples_of=chosen)
    with open_store(str(few), create=False) as store:
        shown = collect(store, store.runs(), most_runs=20).runs
    assert sorted(one["id"] for one in shown) == [short(one) for one in chosen]


def test_the_launches_have_the_overrides_of_their_command_line(tmp_path: Path) -> None:
    """Two launches of one sweep, the second with two keys set; a sweep without a stored run is left out."""
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        for seed in (0, 1):
            store_run(store, config(seed=seed), sweep="table1")
        for channels in (32, 20):
            of = config(seed=2, channels=channels, reset=0.123456789)
            store_run(store, of, sweep="quick")
            overrides = NewSweep("table1", "", ("channels", "reset"))
            store.stage([PlannedRun(run_id(of), of)], sweep=overrides)
        store.stage([PlannedRun(run_id(config(seed=9)), config(seed=9))], sweep=NewSweep("table2", ""))
        report = collect(store, store.runs(), most_runs=0)
    assert report.launches == {"quick": 2, "table1": 2, "table1 channels=20,32 reset=0.123456789": 2}
    assert "<code>imagine-sweep launch table1 channels=20,32 reset=0.123456789</code>" in render(
        report, title="t"
    )
