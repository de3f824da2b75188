"""What the terminal shows: words, the answer's order, goldens, and progress."""

import ast
import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from loadtune.records.measurement import TrialState
from loadtune.records.report import Alternative, Report, Speedup, Verdict
from loadtune.records.settings import Settings
from loadtune.render.answer import compose_alternatives
from loadtune.render.commands import compose_longer_command, compose_next
from loadtune.render.emit import emit
from loadtune.render.progress import (
    LiveProgress,
    PlainProgress,
    SilentProgress,
    format_result,
    make_progress,
)
from loadtune.render.terminal import answer_lines, print_answer
from loadtune.render.words import (
    format_bytes,
    format_column,
    format_count,
    format_dataloader_line,
    format_interval,
    format_number,
    format_percent,
    format_seconds,
    format_settings,
    one_line,
    visible,
)
from tests.examples import (
    EXAMPLES,
    HOSTILE,
    NOT_UTF8,
    OUT_OF_MEMORY,
    REORDERING,
    complete,
    failed,
    faster_report,
    hostile_report,
    inconclusive_report,
    same_report,
    settings,
)

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", EXAMPLES)
def test_terminal_matches_its_golden(name: str) -> None:
    """The whole answer at 80 columns; LOADTUNE_UPDATE_GOLDEN=1 writes it anew."""
    shown = "\n".join(answer_lines(EXAMPLES[name]())) + "\n"
    golden = GOLDEN / f"terminal-{name}.txt"
    if os.environ.get("LOADTUNE_UPDATE_GOLDEN") == "1":
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def test_a_duel_held_in_another_way_says_so() -> None:
    """What its notes say stands among the reasons: fresh runs in turns, or memory that had no time to settle."""
    report = faster_report()
    noted = msgspec.structs.replace(report.duels[-1], notes=("Fresh runs alternated (ABBA).",))
    lines = answer_lines(msgspec.structs.replace(report, duels=(*report.duels[:-1], noted)))
    assert "  - Fresh runs alternated (ABBA)." in lines


def test_answer_comes_in_its_fixed_order() -> None:
    """Now, use, ceiling, costs, took; then why, warnings, what to paste, what is next."""
    lines = answer_lines(faster_report())
    starts = (
        "now ",
        "use ",
        "ceiling ",
        "costs ",
        "took ",
        "why",
        "other answers",
        "warning:",
        "paste",
        "next:",
    )
    positions = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_only_what_is_pasted_is_longer_than_the_terminal(name: str, width: int) -> None:
    """Prose fills the columns and no more; commands and code stay whole."""
    report = EXAMPLES[name]()
    lines = answer_lines(report, width=width)
    pasted = {f"  {compose_next(report, 'report.json').command}"}
    if report.recommendation is not None:
        pasted.add(f"  {format_dataloader_line(report.recommendation.settings)}")
        pasted |= {f"  {line}" for each in report.recommendation.alternatives for line in each.learning_rate.code}
    unbreakable = max(len(word) for line in lines for word in line.split()) + 16
    assert [line for line in lines if line not in pasted and len(line) > max(width, unbreakable)] == []


def test_colour_adds_codes_and_changes_no_word() -> None:
    """Without its codes the coloured answer is the plain one."""
    plain = answer_lines(faster_report())
    colored = answer_lines(faster_report(), color=True)
    stripped = [line.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") for line in colored]
    assert stripped == plain
    assert colored != plain


def test_print_answer_writes_the_plain_lines_to_a_stream_without_colour() -> None:
    """A pipe gets the same words, with no markup read from names."""
    stream = io.StringIO()
    print_answer(hostile_report(), Console(file=stream, width=80))
    assert stream.getvalue().splitlines() == [line.rstrip() for line in answer_lines(hostile_report())]


def test_replayed_device_is_named_in_the_first_line() -> None:
    """What was replayed is never taken for a measurement of a device."""
    assert answer_lines(faster_report())[0].startswith("device   replayed: RTX 3090")


def test_cpu_advice_says_so_in_the_first_line_with_the_ways_to_a_gpu() -> None:
    """Who has a GPU elsewhere learns of --step-time and replay, and gets the loader's own rates."""
    lines = answer_lines(inconclusive_report())
    assert all(word in lines[0] for word in ("this CPU", "--step-time", "replay"))
    assert "0: 12.1, 1: 14.5 samples/s" in " ".join(line.strip() for line in lines[1:4])


def test_verdicts_have_their_own_words() -> None:
    """FASTER, SAME and INCONCLUSIVE cannot be mistaken for each other."""
    shown = [
        "\n".join(answer_lines(report(), width=200)) for report in (faster_report, same_report, inconclusive_report)
    ]
    assert "1.90x [1.83 1.97] the rate of num_workers=0, batch_size=16" in shown[0]
    assert "as fast as yours (within 3 %)" in shown[1]
    assert "No setting is shown to be faster than yours" in shown[2]
    assert "the smallest difference this run could have told: 11 %" in shown[2]
    assert [text.count("the rate of") for text in shown] == [1, 0, 0]


def test_undecided_run_is_told_to_take_twice_the_budget() -> None:
    """The budget given is replaced, not added to, however it was written."""
    report = inconclusive_report()
    for budget in (("--budget", "120s"), ("--budget=120s",)):
        request = msgspec.structs.replace(report.request, command=("loadtune", "probe", *budget, "--device", "cpu"))
        changed = msgspec.structs.replace(report, request=request)
        assert compose_longer_command(changed) == "loadtune probe --device cpu --budget 240s"
        assert compose_next(changed, "report.json").command == compose_longer_command(changed)


def test_the_next_command_does_not_meet_the_files_of_the_last() -> None:
    """They are there now, and would be refused."""
    words = ("loadtune", "probe", "--out", "here", "--json", "a.json", "--out=there", "--force", "--fresh")
    report = inconclusive_report()
    changed = msgspec.structs.replace(report, request=msgspec.structs.replace(report.request, command=words))
    assert compose_longer_command(changed) == "loadtune probe --fresh --budget 240s"
    unfinished = msgspec.structs.replace(changed, recommendation=None)
    assert compose_next(unfinished, "report.json").command == "loadtune probe --fresh"


def test_the_ratio_of_an_alternative_says_over_what() -> None:
    """Over the choice, where the baseline has no rate."""
    report = faster_report()
    alternative = Alternative(
        kind="larger batch",
        settings=settings(4, 64),
        rate_per_s=90.0,
        screening_ratio=1.4,
        learning_rate=report.recommendation.learning_rate,
    )
    for rate, over in ((42.0, "your setting"), (None, "the chosen setting")):
        baseline = msgspec.structs.replace(report.recommendation.baseline, rate_per_s=rate)
        told = msgspec.structs.replace(report.recommendation, baseline=baseline, alternatives=(alternative,))
        (line,) = compose_alternatives(msgspec.structs.replace(report, recommendation=told))
        assert f"1.40x {over} by single trials" in line


def test_a_setting_that_cannot_run_is_not_told_to_be_kept() -> None:
    """What runs is the answer, in every form; a longer run would not let it run."""
    report = inconclusive_report()
    baseline = msgspec.structs.replace(
        report.recommendation.baseline, rate_per_s=None, failure="worker 0 was killed: out of memory"
    )
    told = msgspec.structs.replace(report.recommendation, baseline=baseline, speedup=Speedup(estimate=None, reason="-"))
    changed = msgspec.structs.replace(report, recommendation=told)
    text = "\n".join(answer_lines(changed, width=200))
    assert "Use num_workers=1, batch_size=2: yours does not run here" in text
    assert "it does not run here: worker 0 was killed: out of memory" in text
    assert not any(words in text for words in ("until a longer run", "No setting is shown", "the candidate"))
    assert compose_next(changed, "report.json").command != compose_longer_command(changed)
    assert json.loads(emit(changed, "json"))["dataloader"]["num_workers"] == 1
    assert json.loads(emit(report, "json"))["dataloader"]["num_workers"] == 0


def test_call_from_python_is_not_given_a_command_line() -> None:
    """A probe that was called as a function is lengthened by its argument."""
    report = inconclusive_report()
    request = msgspec.structs.replace(report.request, command=("recommend(dataset)",))
    changed = msgspec.structs.replace(report, request=request)
    assert compose_longer_command(changed) == "recommend(dataset) with budget='240s'"


@pytest.mark.parametrize(
    "chosen",
    [
        settings(0, 1),
        settings(4, 16),
        settings(4, 16, prefetch_factor=4, pin_memory=True, persistent_workers=True, in_order=False),
    ],
)
def test_pasted_line_is_python_that_passes_exactly_the_settings(chosen: Settings) -> None:
    """It is one call that gives DataLoader what was measured, at 0 workers too."""
    line = format_dataloader_line(chosen)
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    received: dict[str, Any] = {}

    def DataLoader(dataset: object, **kwargs: Any) -> None:  # noqa: N802
        received.update(kwargs, dataset=dataset)

    eval(line, {"DataLoader": DataLoader, "dataset": "mine"})  # noqa: S307
    assert received == {"dataset": "mine", **chosen.dataloader_kwargs()}


def test_hostile_names_cannot_act_on_the_terminal() -> None:
    """No control character, no reordering, and nothing that UTF-8 cannot hold."""
    shown = "\n".join(answer_lines(hostile_report()))
    assert shown.encode("utf-8")
    assert not {char for char in shown if ord(char) < 0x20 and char != "\n"}
    assert "\u202e" not in shown
    assert "photo-\\udcff.png" in shown


def test_report_without_recommendation_names_a_lead_and_no_answer() -> None:
    """An interrupted probe shows its fastest trial for what it is, and pastes nothing."""
    lines = answer_lines(EXAMPLES["interrupted"]())
    assert any(line.startswith("so far") for line in lines)
    assert not any(line.startswith(("use ", "paste")) for line in lines)


def test_missing_speed_up_shows_its_reason() -> None:
    """None is 'not measured' with why, never a number."""
    report = faster_report()
    recommendation = report.recommendation
    assert recommendation is not None
    speedup = msgspec.structs.replace(
        recommendation.speedup, estimate=None, low=None, high=None, reason="both sides do not fit in memory"
    )
    changed = msgspec.structs.replace(recommendation, speedup=speedup, verdict=Verdict.INCONCLUSIVE)
    shown = "\n".join(answer_lines(msgspec.structs.replace(report, recommendation=changed), width=200))
    assert "speed-up not measured: both sides do not fit in memory" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.000123456, "0.000123"),
        (0.9996, "1.00"),
        (9.999, "10.0"),
        (78.149, "78.1"),
        (152.4, "152"),
        (999.6, "1,000"),
        (4812.4, "4,812"),
        (123456.0, "123,500"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_keep_three_or_four_digits(value: float, shown: str) -> None:
    """Rounding up to the next power of ten keeps the digits right too."""
    assert format_number(value) == shown


def test_column_has_one_number_of_decimals_unless_that_would_blur_a_value() -> None:
    """Values of one size line up; one that is far smaller keeps its digits."""
    assert format_column([41.23, 78.1, 103.0]) == ["41.2", "78.1", "103.0"]
    assert format_column([0.512, 14.5]) == ["0.512", "14.5"]
    assert format_column([0.0, 0.0]) == ["0", "0"]
    assert format_column([]) == []


def test_units_are_those_a_person_would_pick() -> None:
    """Milliseconds to hours, MiB and GiB, per cent without a false zero."""
    assert [format_seconds(s) for s in (0.0042, 9.0, 119.0, 200.0, 240.0, 5400.0)] == [
        "4.20 ms",
        "9.00 s",
        "119 s",
        "3 min 20 s",
        "4 min",
        "1.50 h",
    ]
    assert [format_bytes(count) for count in (3 * 2**20, 3 * 2**29, -(2**30))] == [
        "3.00 MiB",
        "1.50 GiB",
        "-1.00 GiB",
    ]
    assert [format_percent(ratio) for ratio in (0.03, 0.004, 0.974)] == ["3 %", "0.4 %", "97 %"]
    assert format_count(10582) == "10,582"


def test_interval_has_the_decimals_of_its_smallest_bound() -> None:
    """Estimate and bounds can be compared digit by digit."""
    assert format_interval(1.0, 0.985, 1.015) == "1.000x [0.985 1.015]"
    assert format_interval(1.9, 1.83, 1.97) == "1.90x [1.83 1.97]"
    assert format_interval(1.9, None, None) == "1.90x"


def test_settings_leave_torch_defaults_out() -> None:
    """Only what differs from torch is named beside the two axes."""
    assert format_settings(settings(4, 16, prefetch_factor=2)) == "num_workers=4, batch_size=16"
    full = settings(4, 16, prefetch_factor=4, pin_memory=True, in_order=False, accumulation_steps=2)
    assert format_settings(full).endswith("prefetch_factor=4, pin_memory=True, in_order=False, accumulation_steps=2")


def test_foreign_text_keeps_its_lines_only_where_asked() -> None:
    """A log keeps its line ends, a name does not."""
    assert visible(f"a\x1b[1m\n{REORDERING}\x00") == "a[1m\nexegpj.png"
    assert one_line("a\nb\tc\r") == "a b c"
    assert visible(NOT_UTF8) == "photo-\\udcff.png"


def test_plain_progress_writes_one_line_a_trial() -> None:
    """A log shows position, setting and rate; the start of a trial adds no line."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress = PlainProgress(stream)
    progress.start(f"probing {HOSTILE}\u00e9")
    trial = complete(3, settings(4, 16), 78.1)
    progress.trial_started(3, 14, "num_workers=4", 90.0)
    progress.trial_finished(trial, trial)
    progress.trial_started(4, 14, "num_workers=16", 80.0)
    progress.trial_finished(failed(4, settings(16, 32), TrialState.OUT_OF_MEMORY, OUT_OF_MEMORY), trial)
    progress.phase("duel")
    progress.note("done")
    progress.stop()
    stream.seek(0)
    lines = stream.read().splitlines()
    assert len(lines) == 5
    assert lines[0].endswith("\\xe9")
    assert "\x1b" not in "".join(lines)
    assert lines[1].startswith(" 3/14  num_workers=4")
    assert "78.1 samples/s" in lines[1]
    assert "out of memory: ended by loadtune at 28.8 GiB" in lines[2]


def test_trial_line_names_what_ran_alone_and_omits_what_was_not_measured() -> None:
    """A ceiling is not taken for a setting, and no zero stands for an unknown."""
    line = format_result(complete(1, settings(0, 16), 80.2, role="ceiling", spread_ratio=None, is_watched=False))
    assert "device alone" in line
    assert not any(word in line for word in ("+-", "cores", "GiB"))


def test_live_progress_shows_position_and_best_and_leaves_a_line_a_trial() -> None:
    """On a terminal the live line goes away and each trial's line stays, with no markup read from names."""
    stream = io.StringIO()
    progress = LiveProgress(stream)
    progress._console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    trial = complete(3, settings(4, 16), 78.1)
    progress.start("listing")
    progress.trial_started(3, 14, f"num_workers=4 {HOSTILE}", 90.0)
    drawn = progress._draw().plain
    progress.trial_finished(trial, trial)
    best = progress._draw().plain
    progress.note("[bold]kept[/bold]")
    progress.stop()
    progress.stop()
    assert drawn.startswith(" 3/14  num_workers=4")
    assert "s left" in drawn
    assert "\x1b" not in drawn
    assert best.endswith("best 78.1 samples/s: num_workers=4, batch_size=16")
    assert "[bold]kept[/bold]" in stream.getvalue()


def test_progress_suits_its_stream() -> None:
    """Quiet wins; a stream that is no terminal gets plain lines; a terminal gets a live line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress(io.StringIO()), PlainProgress)
    assert isinstance(make_progress(Terminal()), LiveProgress)
    assert isinstance(make_progress(Terminal(), quiet=True), SilentProgress)


def test_every_example_is_a_report() -> None:
    """The examples stand for all that outputs must bear."""
    assert all(isinstance(make(), Report) for make in EXAMPLES.values())
