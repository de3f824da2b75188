"""What a verification says, and how it is kept: outcomes, files, terminal and page."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from loadtune.errors import OutputError
from loadtune.outputs import open_outputs
from loadtune.records.verification import (
    VERIFICATION_SCHEMA_VERSION,
    Check,
    Figure,
    Outcome,
    Reading,
    Verification,
)
from loadtune.render.checks import compose_count, compose_figure, compute_intervals, place_on_log_axis
from loadtune.render.saved import (
    decode_report,
    decode_verification,
    encode_report,
    is_verification,
    read_saved,
    read_verification,
    verification_schema,
    write_report,
)
from loadtune.render.verification import print_verification, verification_lines
from loadtune.render.verification_html import render_verification_html
from tests.examples import duel, faster_report
from tests.verifications import (
    DEVICE_MEMORY,
    PLAIN_LOOP,
    SAME,
    SAMPLER,
    VERIFICATIONS,
    YOURS,
    fails,
    holds,
    hostile,
    unknown,
    verification,
)

GOLDEN = Path(__file__).parent.parent / "golden"
PAGE_LIMIT_BYTES = 60_000
CODES = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize(
    ("checks", "outcome"),
    [
        ((), Outcome.UNKNOWN),
        ((PLAIN_LOOP, SAMPLER), Outcome.HOLDS),
        ((PLAIN_LOOP, DEVICE_MEMORY), Outcome.UNKNOWN),
        ((SAME, DEVICE_MEMORY, PLAIN_LOOP), Outcome.FAILS),
    ],
)
def test_worst_check_decides(checks: tuple[Check, ...], outcome: Outcome) -> None:
    """What was not checked, or cannot be told, is not taken to hold; missing readings do not count."""
    assert verification(*checks).outcome is outcome
    assert verification(*checks, readings=()).outcome is outcome


def test_record_without_its_reason_is_refused() -> None:
    """A claim that does not hold, a missing number and a missing reading each say why."""
    for outcome in (Outcome.FAILS, Outcome.UNKNOWN):
        with pytest.raises(ValueError, match="says no reason"):
            msgspec.structs.replace(PLAIN_LOOP, outcome=outcome)
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        Figure(quantity="rate")
    with pytest.raises(ValueError, match="says no reason"):
        Reading(name="PSS", is_available=False)


@pytest.mark.parametrize("bounds", [(1.0, None), (None, 1.0), (2.0, 1.0)])
def test_bounds_come_in_pairs_and_in_order(bounds: tuple[float | None, float | None]) -> None:
    """Half an interval, or one the wrong way round, is a mistake of the check."""
    with pytest.raises(ValueError, match="bound"):
        Figure(quantity="rate", value=1.0, low=bounds[0], high=bounds[1])


def test_check_is_named_once() -> None:
    """An id tells which check is meant."""
    with pytest.raises(ValueError, match="share an id"):
        verification(PLAIN_LOOP, PLAIN_LOOP)


@pytest.mark.parametrize("name", [name for name in VERIFICATIONS if name != "hostile"])
def test_round_trip_is_identity(name: str, tmp_path: Path) -> None:
    """What is read is what was written."""
    path = tmp_path / "verification.json"
    write_report(VERIFICATIONS[name](), path)
    assert read_verification(path) == read_saved(path) == VERIFICATIONS[name]()


def test_report_and_verification_are_told_apart(tmp_path: Path) -> None:
    """Either is read for what it is; broken text is a report that cannot be read."""
    write_report(faster_report(), tmp_path / "report.json")
    assert read_saved(tmp_path / "report.json") == faster_report()
    assert is_verification(encode_report(holds()))
    assert not is_verification(encode_report(faster_report()))
    assert not any(map(is_verification, (b"", b"[]", b"\xff", b'{"kind": "verification"}', b"[" * 100_000)))


def test_one_kind_is_refused_as_the_other_in_two_lines() -> None:
    """What it is, and which file to give instead."""
    with pytest.raises(OutputError) as caught:
        decode_verification(encode_report(faster_report()), "report.json")
    assert caught.value.what == "report.json is a loadtune report, not a verification"
    assert "verification.json" in caught.value.hint
    with pytest.raises(OutputError) as caught:
        decode_report(encode_report(holds()), "verification.json")
    assert caught.value.what == "verification.json is a loadtune verification, not a report"
    assert len(str(caught.value).splitlines()) == 2


def test_later_format_is_refused_whatever_else_it_holds() -> None:
    """The version is read before the rest, which may have changed."""
    later = {"schema_version": VERIFICATION_SCHEMA_VERSION + 1, "kind": "verification", "checks": "no longer a list"}
    with pytest.raises(OutputError) as caught:
        decode_verification(json.dumps(later).encode(), "new.json")
    assert f"verification format {VERIFICATION_SCHEMA_VERSION + 1}" in caught.value.what
    assert "upgrade" in caught.value.hint


def test_edited_file_that_breaks_its_own_rules_is_refused() -> None:
    """A failed check whose reason was taken out is not read as a result."""
    saved = json.loads(encode_report(fails()))
    saved["checks"][2]["reason"] = None
    with pytest.raises(OutputError, match="not a loadtune verification"):
        decode_verification(json.dumps(saved).encode(), "edited.json")


def test_saved_verification_fits_the_published_schema() -> None:
    """Another language's validator accepts what is written, and every field is described."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    published = verification_schema()
    assert (published["title"], published["version"]) == ("loadtune verification", VERIFICATION_SCHEMA_VERSION)
    assert published["$defs"]["Check"]["properties"]["target"]["description"]
    for make in VERIFICATIONS.values():
        jsonschema.validate(json.loads(encode_report(make())), published)


@pytest.mark.parametrize("name", VERIFICATIONS)
def test_terminal_matches_its_golden(name: str) -> None:
    """The whole answer at 80 columns; LOADTUNE_UPDATE_GOLDEN=1 writes it anew."""
    shown = "\n".join(verification_lines(VERIFICATIONS[name](), saved_as="verification.json")) + "\n"
    golden = GOLDEN / f"verification-{name}.txt"
    if os.environ.get("LOADTUNE_UPDATE_GOLDEN") == "1":
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in VERIFICATIONS if name != "hostile"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_terminal(name: str, width: int) -> None:
    """Prose fills the columns and no more."""
    assert [line for line in verification_lines(VERIFICATIONS[name](), width) if len(line) > width] == []


@pytest.mark.parametrize("name", VERIFICATIONS)
def test_colour_adds_codes_and_changes_no_word(name: str) -> None:
    """Without its codes the coloured answer is the plain one; every mark is a word."""
    plain = verification_lines(VERIFICATIONS[name]())
    colored = verification_lines(VERIFICATIONS[name](), color=True)
    assert [CODES.sub("", line) for line in colored] == plain
    assert colored != plain


def test_stream_without_colour_gets_the_plain_words() -> None:
    """A pipe gets no code and no markup read from names; NO_COLOR is rich's own to heed."""
    stream = io.StringIO()
    print_verification(hostile(), Console(file=stream, width=80))
    assert stream.getvalue().splitlines() == [line.rstrip() for line in verification_lines(hostile())]
    assert "\x1b" not in stream.getvalue()


def test_count_names_what_does_not_hold_and_what_cannot_be_told() -> None:
    """The last words say how many claims hold, and which do not."""
    expected = "2 of 4 claims hold; 1 does not: same-against-same; 1 cannot be told here: device-memory"
    assert compose_count(fails()) == expected
    assert compose_count(verification(PLAIN_LOOP)) == "1 of 1 claim holds"
    stopped = msgspec.structs.replace(fails(), status="interrupted")
    assert compose_count(stopped) == f"{expected}; the verification was interrupted"


def test_interrupted_run_is_not_said_to_hold() -> None:
    """What was checked until then is counted; that all claims hold is not said."""
    lines = verification_lines(VERIFICATIONS["interrupted"]())
    assert "The verification was interrupted: not every claim was checked" in lines
    assert not any("What loadtune claims holds here" in line for line in lines)


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (Figure(quantity="q", value=1.003, unit="x", low=0.988, high=1.018), "1.003x [0.988 1.018]"),
        (Figure(quantity="q", value=0.02, unit="ratio"), "2 %"),
        (Figure(quantity="q", value=0.02, unit="ratio", low=0.01, high=0.03), "2 % [1 % to 3 %]"),
        (Figure(quantity="q", value=0.015, unit="s"), "15.0 ms"),
        (Figure(quantity="q", value=3.0 * 2**30, unit="bytes"), "3.00 GiB"),
        (Figure(quantity="q", value=77.9, unit="samples/s"), "77.9 samples/s"),
        (Figure(quantity="q", value=4.0), "4.00"),
        (Figure(quantity="q", reason="no GPU"), "not measured: no GPU"),
    ],
)
def test_figures_are_in_units_that_people_read(figure: Figure, shown: str) -> None:
    """Each unit in its own words; what is missing is no zero."""
    assert compose_figure(figure) == shown


def test_drawn_intervals_are_the_stated_ones_else_those_of_the_duels() -> None:
    """A ratio with both bounds is drawn; without one, each duel's own interval."""
    (stated,) = compute_intervals(PLAIN_LOOP)
    assert stated[1:4] == (1.003, 0.988, 1.018)
    first, second = compute_intervals(SAME)
    assert first.low < 1.0 < first.high
    assert "by itself" in second.label
    few = msgspec.structs.replace(SAME, duels=(duel(1.0, 0.02, YOURS, YOURS, pairs=3),))
    (doubtful,) = compute_intervals(few)
    assert "slice pairs" in doubtful.doubt
    assert compute_intervals(SAMPLER) == ()


def test_axis_is_logarithmic_and_ends_where_it_ends() -> None:
    """Twice and half as fast lie equally far from 1; what is beyond stands at the end."""
    assert [place_on_log_axis(ratio, 4.0) for ratio in (1.0, 2.0, 0.5, 90.0, 0.01)] == [50, 75, 25, 100, 0]


@pytest.mark.parametrize("name", VERIFICATIONS)
def test_page_is_small_and_the_same_for_the_same_record(name: str) -> None:
    """It can be mailed, and compared."""
    page = render_verification_html(VERIFICATIONS[name]())
    assert render_verification_html(VERIFICATIONS[name]()) == page
    assert len(page.encode()) - len(encode_report(VERIFICATIONS[name]())) < PAGE_LIMIT_BYTES
    assert len(set(re.findall(r'\bid="([^"]*)"', page))) == len(re.findall(r'\bid="', page))


def test_page_says_what_the_terminal_says() -> None:
    """Outcome, claims, targets, reasons, intervals, readings, the command."""
    page = render_verification_html(fails()).replace("\u00a0", " ")
    for said in (
        "Not all that loadtune claims holds here",
        "2 of 4 claims hold; 1 does not: same-against-same",
        "within 3 % of the plain loop",
        "1.003x [0.988 1.018]",
        "a replayed device occupies no memory",
        "a machine that is short of memory is seen only by its swapping",
        "1.4 cores were busy elsewhere",
        "busy outside it: 0.210 cores; taken by the hypervisor: 0 %",
        "loadtune verify --dataset data/voc33",
    ):
        assert said in page
    assert "fewer repeats and wider intervals" in render_verification_html(unknown())


def test_hostile_text_stays_text_in_page_and_terminal() -> None:
    """No element comes of a name, no code and no reordering reaches the terminal."""
    page = render_verification_html(hostile())
    assert page.encode("utf-8")
    assert "<b>" not in page
    assert page.count("<script") == render_verification_html(holds()).count("<script")
    shown = page[: page.index('<script type="application/json"')]  # the data are the names as they are
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", shown)
    assert "photo-\\udcff.png" in page
    shown = "\n".join(verification_lines(hostile()))
    assert shown.encode("utf-8")
    assert not {char for char in shown if ord(char) < 0x20 and char != "\n"}
    assert "\u202e" not in shown


def test_page_needs_no_network_and_lets_no_foreign_script_run() -> None:
    """Nothing is fetched, and the policy allows exactly the page's two scripts; its data is the saved file."""
    page = render_verification_html(fails())
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []
    policy = next(text for text in re.findall(r'content="([^"]*)"', page) if "default-src" in text)
    assert policy.count("sha256-") == 2
    data: Any = re.search(r'id="report-data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1]) == json.loads(encode_report(fails()))


def test_outputs_are_named_after_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification and report stand side by side; neither is overwritten unasked; a copy is written at the end."""
    copy = tmp_path / "copy.json"
    outputs = open_outputs("data", tmp_path, copy, force=False, kind="verification")
    outputs.save(msgspec.structs.replace(holds(), status="running"))
    assert not outputs.html_path.exists()
    outputs.finish(holds())
    assert {path.name for path in tmp_path.iterdir()} == {"verification.json", "verification.html", "copy.json"}
    assert isinstance(read_saved(copy), Verification)
    assert outputs.html_path.read_text(encoding="utf-8") == render_verification_html(holds())
    with pytest.raises(OutputError, match=r"verification\.json exists"):
        open_outputs("data", tmp_path, None, force=False, kind="verification")
    assert open_outputs("data", tmp_path, None, force=False).json_path.name == "report.json"
    monkeypatch.chdir(tmp_path)
    assert "data-verification-" in open_outputs("data", None, None, force=False, kind="verification").folder.name
