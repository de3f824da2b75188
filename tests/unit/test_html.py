"""What the page holds: all that was found, nothing that acts, the same bytes for the same report."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import msgspec
import pytest

from loadtune.render.charts import compute_throughput_chart
from loadtune.render.html import render_html
from loadtune.render.saved import encode_report
from loadtune.render.searching import compute_parts
from loadtune.render.tables import compute_step_rows, compute_trial_table, compute_workload
from tests.examples import (
    EXAMPLES,
    complete,
    faster_report,
    inconclusive_report,
    same_report,
    settings,
)

PAGE_LIMIT_BYTES = 200_000


@cache
def page_of(name: str) -> str:
    """Render each example once: drawing its charts takes most of the time."""
    return render_html(EXAMPLES[name]())


class Page(HTMLParser):
    """The elements and texts of a page, and whether each element was closed."""

    VOID = frozenset({"meta", "link", "wbr", "br", "hr", "img", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.data = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data = data if data.lstrip().startswith("{") else self.data
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_report_is_a_whole_page(name: str) -> None:
    """Elements are closed in order, ids are unique, and the text can be written."""
    source = page_of(name)
    page = Page(source)
    assert page.open == []
    ids = [value for attribute, value in page.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    assert source.encode("utf-8")


@pytest.mark.parametrize("name", ["faster", "empty"])
def test_same_report_gives_the_same_bytes(name: str) -> None:
    """Nothing of the moment or the machine enters the page."""
    assert render_html(EXAMPLES[name]()) == page_of(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_page_is_small_beside_its_data(name: str) -> None:
    """It can be mailed."""
    report = EXAMPLES[name]()
    assert len(page_of(name).encode()) - len(encode_report(report)) < PAGE_LIMIT_BYTES


def test_page_says_what_the_terminal_says() -> None:
    """Verdict, speed-up with interval and baseline, ceiling, costs, time, the line to paste, a warning."""
    text = Page(page_of("faster")).text.replace("\u00a0", " ")
    for said in (
        "Use num_workers=4, batch_size=16",
        "1.90x [1.83 1.97] the rate of num_workers=0, batch_size=16",
        "this setting reaches 97 % of it",
        "RAM +1.68 GiB, CPU +3.80 cores, VRAM not measured",
        "the smallest difference this run could have told: 4 %",
        "DataLoader(dataset, batch_size=16, num_workers=4)",
        "CPU frequency governor is powersave",
        "set it to performance while measuring",
        "It stood idle 48 % of the time",
    ):
        assert said in text


def test_page_holds_the_report_as_it_is_saved() -> None:
    """The embedded data is report.json, whatever the names hold."""
    for name in ("faster", "hostile"):
        assert json.loads(Page(page_of(name)).data) == json.loads(encode_report(EXAMPLES[name]()))


def test_hostile_names_stay_text() -> None:
    """No element, template, comment or script comes of a name, in the page or in its data."""
    page = Page(page_of("hostile"))
    plain = Page(page_of("faster"))
    assert page.tags.count("b") == 0
    assert page.tags.count("script") == plain.tags.count("script")
    assert "</script><b>bold</b> [31m{{ 7 * 7 }}" in page.text
    assert "photo-\\udcff.png" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page.text)


def test_page_needs_no_network_and_lets_no_foreign_script_run() -> None:
    """Nothing is linked but the page itself, and the policy allows exactly its two scripts."""
    source = page_of("faster")
    page = Page(source)
    links = [value or "" for attribute, value in page.attributes if attribute in {"href", "src", "xlink:href"}]
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []
    policy = next(value or "" for attribute, value in page.attributes if value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert not re.search(r"script-src[^;]*unsafe", policy)
    assert not re.search(r"url\((?!#)|@import", source)


def test_replayed_figures_are_labelled_wherever_they_stand() -> None:
    """Verdict, charts, table and step times each say so; a real device is never said to be replayed."""
    source = page_of("faster")
    assert source.count(">replayed</span>") == 5
    assert "replayed: RTX 3090, DeepLabv3+ R50 513 px (estimated)" in source
    assert ">replayed" not in page_of("inconclusive")
    assert "advice for training on this CPU" in page_of("inconclusive")


def test_failed_trial_opens_to_its_log() -> None:
    """The row holds the cause, the hint and the last lines that were printed."""
    source = page_of("faster")
    assert "host memory: ended by loadtune at 28.8 GiB" in source
    assert "use fewer workers or a smaller prefetch_factor" in source
    assert "is killed by signal." in source


def test_missing_readings_are_words_and_sort_last() -> None:
    """None is 'not measured', with no value to sort by; never a zero."""
    table = compute_trial_table(inconclusive_report())
    texts = {cell.text for row in table.rows for cell in row.measured if cell.value is None}
    assert texts == {"not measured"}
    assert not any(cell.text == "0" for row in table.rows for cell in row.measured)


def test_column_has_one_unit() -> None:
    """Memory is in the unit that its heading names."""
    table = compute_trial_table(faster_report())
    assert table.headings[-1] == "memory, GiB"
    memory = [row.measured[-1].value for row in table.rows if row.is_complete]
    assert memory[:2] == pytest.approx([0.9, 0.9])


def test_rows_of_now_and_use_are_marked_in_words() -> None:
    """They are found without colour; a ceiling with the same setting is neither."""
    marks = {row.number: row.marks for row in compute_trial_table(faster_report()).rows if row.marks}
    assert marks == {2: ("now",), 5: ("use",)}
    assert compute_trial_table(same_report()).rows[1].marks == ("now", "use")
    assert compute_trial_table(inconclusive_report()).rows[1].marks == ("candidate",)


def test_a_variant_that_was_chosen_is_shown_as_the_choice() -> None:
    """Its row is marked, the chart rings it, and its seconds are no ceiling's; one that lost is in neither."""
    report = faster_report()
    won = msgspec.structs.replace(report.recommendation.settings, in_order=False)
    lost = msgspec.structs.replace(won, prefetch_factor=9)
    tried = tuple(complete(90 + place, each, 82.0, role="variant") for place, each in enumerate((won, lost)))
    told = msgspec.structs.replace(report.recommendation, settings=won)
    changed = msgspec.structs.replace(report, recommendation=told, trials=(*report.trials, *tried))
    marks = {row.number: row.marks for row in compute_trial_table(changed).rows if row.number >= 90}
    assert marks == {90: ("use",), 91: ()}
    assert compute_throughput_chart(changed).chosen is not None
    before, after = (dict(compute_parts(each)) for each in (report, changed))
    assert before["ceilings"] == after["ceilings"]
    assert "variants" in after.keys() - before.keys()


def test_what_a_script_handed_over_is_not_called_ours() -> None:
    """The network that was trained is named, not the one that would have been."""

    def told(*handed: str) -> dict[str, str]:
        return dict(compute_workload(msgspec.structs.replace(faster_report().request, handed_over=handed)))

    assert told()["model"].startswith("DeepLabv3+")
    assert told("dataset", "model", "optimizer").items() >= {"model": "your own", "optimizer": "your own"}.items()
    assert "crop" not in told("dataset")
    assert set(told("train_step").values()) >= {"your own step's"}


def test_step_parts_fill_the_bar_without_overlap() -> None:
    """Shares follow one another up to the whole; the loader alone has no step."""
    rows = compute_step_rows(faster_report())
    assert len(rows) == 12
    for row in rows:
        ends = [part.start_percent + part.width_percent for part in row.parts]
        starts = [part.start_percent for part in row.parts]
        assert starts[1:] == pytest.approx(ends[:-1], abs=0.2)
        assert ends[-1] == pytest.approx(100, abs=0.2)


def test_step_without_a_device_timeline_says_so() -> None:
    """Where no part is known there is no bar, but a reason."""
    trial = complete(1, settings(0, 16), 41.2)
    assert trial.measurement is not None
    windows = tuple(
        msgspec.structs.replace(window, compute_s=None, copy_s=None, device_idle_s=None)
        for window in trial.measurement.windows
    )
    measured = msgspec.structs.replace(trial.measurement, windows=windows)
    report = msgspec.structs.replace(faster_report(), trials=(msgspec.structs.replace(trial, measurement=measured),))
    (row,) = compute_step_rows(report)
    assert row.parts == ()
    assert row.note.startswith("not measured")
