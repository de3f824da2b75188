"""Threads of the main process: are they measured as a setting says, won by a duel, and told to a script?"""

import ast
import json
import math
from types import SimpleNamespace

import msgspec
import pytest

from loadtune import confirming
from loadtune.advice.search import Leg
from loadtune.advice.terms import Choice
from loadtune.advised import Advice
from loadtune.confirming import refine
from loadtune.errors import UsageError
from loadtune.options import parse_settings
from loadtune.records.measurement import Duel, SlicePair, WorkerCost, WorkerTimes
from loadtune.records.report import Report, Verdict
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import DeviceChoice, Settings, TrialSpec, WorkloadSpec
from loadtune.render.emit import FORMS, emit
from loadtune.render.html import render_html
from loadtune.render.pasting import compose_paste
from loadtune.render.saved import decode_report, encode_report
from loadtune.render.terminal import answer_lines
from loadtune.render.words import format_settings, measured_threads, other_settings
from loadtune.stats import DUEL_PAIRS_MIN
from tests.examples import faster_report
from tests.fake_runner import complete_result
from tests.unit.test_planning import plan

PLAIN = Settings(num_workers=4, batch_size=16)
"""What `faster_report` recommends."""
ONE = msgspec.structs.replace(PLAIN, main_threads=1)
ALL_FORMS = pytest.mark.parametrize("form", FORMS)


def recommending(settings: Settings = PLAIN, threads: int | None = None, **changes) -> Report:
    """A report that recommends the setting, measured with so many threads; every other trial had 9."""
    report = faster_report()
    trials = [
        msgspec.structs.replace(trial, settings=settings, threads=threads)
        if trial.settings == PLAIN and trial.role == "grid"
        else msgspec.structs.replace(trial, threads=9)
        for trial in report.trials
    ]
    told = msgspec.structs.replace(report.recommendation, settings=settings, **changes)
    return msgspec.structs.replace(report, trials=tuple(trials), recommendation=told)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_no_setting(threads):
    with pytest.raises(ValueError, match="main_threads of at least 1"):
        Settings(num_workers=0, batch_size=1, main_threads=threads)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"num_workers": 0, "batch_size": 1, "main_threads": {threads}}}', type=Settings)


def test_the_published_schema_says_so():
    (described,) = [each for name, each in msgspec.json.schema(Settings)["$defs"].items() if name == "Settings"]
    choices = described["properties"]["main_threads"]["anyOf"]
    assert {"type": "integer", "minimum": 1} in choices


def test_a_data_loader_is_not_told_of_them():
    assert ONE.dataloader_kwargs() == PLAIN.dataloader_kwargs()


def test_reports_from_before_have_none_and_new_ones_come_back():
    assert msgspec.json.decode(b'{"num_workers": 4, "batch_size": 16}', type=Settings) == PLAIN
    report = recommending(ONE, 1)
    assert decode_report(encode_report(report), "report.json") == report


@pytest.mark.parametrize(
    ("device", "feed", "threads", "expected"),
    [
        ({"device": "cpu"}, "loader", None, 4),
        ({"device": "cpu"}, "loader", 1, 1),
        ({"device": "cpu"}, "loader", 6, 6),
        ({"device": "cpu"}, "resident", None, 7),
        ({"device": "cpu"}, "resident", 2, 2),
        ({"step_time_s": 0.1}, "loader", None, None),
        ({"step_time_s": 0.1}, "loader", 1, 1),
    ],
)
def test_a_trial_runs_with_the_threads_of_its_setting(device, feed, threads, expected):
    """Else on a CPU with the cores that workers leave, and elsewhere as torch chose."""
    leg = Leg(settings=msgspec.structs.replace(PLAIN, main_threads=threads), role="grid", feed=feed)
    assert plan(cores=8, **device).spec(leg, "warm", 0, 0).threads == expected


def test_a_variant_is_another_trial():
    made = plan(cores=8, device="cpu")
    one, plain = (made.spec(Leg(settings=each, role="variant"), "warm", 0, 0) for each in (ONE, PLAIN))
    assert one.key != plain.key


def test_a_baseline_may_name_them():
    """What the answer calls a setting can be typed as one."""
    assert parse_settings(format_settings(ONE), 2) == ONE
    with pytest.raises(UsageError):
        parse_settings("num_workers=2,main_threads=0", 2)


def test_a_setting_is_told_with_them():
    assert other_settings(ONE) == ["main_threads=1"]
    assert other_settings(PLAIN) == []


def test_the_threads_of_a_rate_are_those_of_its_own_trials():
    trials = recommending(PLAIN, 3).trials
    assert measured_threads(PLAIN, trials) == 3
    assert measured_threads(ONE, trials) == 1
    assert measured_threads(PLAIN, ()) is None
    assert measured_threads(PLAIN, recommending().trials) is None
    alone = [complete_result(PLAIN, 1.0, role=role, threads=5) for role in ("ceiling", "loader")]
    assert measured_threads(PLAIN, [*trials, *alone]) == 3
    rounds = [complete_result(PLAIN, 1.0, threads=count) for count in (4, 2)]
    assert measured_threads(PLAIN, rounds) == 2


@pytest.mark.parametrize(("settings", "threads"), [(ONE, 1), (PLAIN, 3)])
def test_what_is_pasted_sets_the_threads_that_were_measured(settings, threads):
    report = recommending(settings, threads)
    paste = compose_paste(report)
    ast.parse(paste)
    calls = [f"torch.set_num_threads({threads})", "DataLoader(dataset, batch_size=16, num_workers=4)"]
    assert paste.splitlines() == calls
    lines = answer_lines(report, width=200)
    place = lines.index("paste")
    assert lines[place + 1 : place + 3] == [f"  {call}" for call in calls]
    plural = "" if threads == 1 else "s"
    told = f"with {threads} torch thread{plural} in the main process: torch.set_num_threads({threads})"
    assert told in "\n".join(lines)
    assert told in render_html(report)
    (now,) = [place for place, line in enumerate(lines) if line.startswith("now ")]
    assert lines[now + 1].strip() == "with 9 torch threads in the main process"  # what the speed-up is over
    assert "\n".join(calls) in render_html(report)


def test_the_threads_of_a_setting_that_is_kept_are_said_once():
    report = recommending(PLAIN, 3)
    yours = msgspec.structs.replace(report.recommendation.baseline, settings=PLAIN)
    kept = msgspec.structs.replace(report.recommendation, baseline=yours)
    told = "\n".join(answer_lines(msgspec.structs.replace(report, recommendation=kept), width=200))
    assert told.count("with 3 torch threads") == 1


def test_where_threads_were_left_alone_nothing_is_said_of_them():
    report = faster_report()
    assert compose_paste(report) == "DataLoader(dataset, batch_size=16, num_workers=4)"
    assert "thread" not in "\n".join(line for line in answer_lines(report, width=200) if "[" not in line)


def read(text: str, form: str):
    """What a program gets to see: the threads, and what a DataLoader is given."""
    if form == "python":
        scope: dict[str, object] = {}
        exec(text, scope)  # noqa: S102
        return scope.get("main_threads"), scope["dataloader_kwargs"]
    found = json.loads(text) if form == "json" else pytest.importorskip("yaml").safe_load(text)
    return found.get("main_threads"), found["dataloader"]


@ALL_FORMS
@pytest.mark.parametrize(("settings", "threads"), [(ONE, 1), (PLAIN, 3), (PLAIN, None)])
def test_every_form_gives_them_beside_the_loader_s_settings(form, settings, threads):
    text = emit(recommending(settings, threads), form)
    found, kwargs = read(text, form)
    assert found == threads
    assert "main_threads" not in kwargs
    assert ("torch.set_num_threads(main_threads)" in text) == (threads is not None and form != "json")


@ALL_FORMS
@pytest.mark.parametrize("today", [None, 2])
def test_what_is_run_today_is_emitted_with_the_threads_it_names_alone(form, today):
    """Those that its trials had were loadtune's."""
    report = recommending(ONE, 1, verdict=Verdict.INCONCLUSIVE)
    baseline = msgspec.structs.replace(report.request.baseline, main_threads=today)
    trials = tuple(msgspec.structs.replace(trial, settings=baseline, threads=9) for trial in report.trials)
    request = msgspec.structs.replace(report.request, baseline=baseline)
    assert read(emit(msgspec.structs.replace(report, request=request, trials=trials), form), form)[0] == today


def test_a_script_gets_them():
    assert Advice(recommending(ONE, 1)).main_threads == 1
    assert Advice(recommending(PLAIN, 3)).main_threads == 3
    assert Advice(recommending()).main_threads is None
    assert Advice(None).main_threads is None
    undecided = recommending(PLAIN, 3)
    request = msgspec.structs.replace(undecided.request, baseline=PLAIN)
    nothing = msgspec.structs.replace(undecided, request=request, recommendation=None)
    assert Advice(nothing).main_threads is None


RATE = 1000.0


def measured(settings: Settings, rate: float, role="grid"):
    """Workers wait for a core half of their time, and two threads of the main process are busy."""
    made = complete_result(settings, rate, role=role)
    times = WorkerTimes(busy_s_per_sample=1.0, delayed_s_per_sample=0.5)
    return msgspec.structs.replace(
        made,
        trace=ResourceTrace(started_monotonic_s=0.0, mean_main_cores=1.5),
        measurement=msgspec.structs.replace(
            made.measurement,
            stall_ratio=0.3,
            main_threads=2,
            worker=WorkerCost(cpu_s_per_sample=0.1, times=times),
        ),
    )


def refined(monkeypatch, *, trial_ratio: float, duel_ratio: float):
    """Refine a choice of PLAIN: the variant's trial and duel are this many times as fast."""

    def held(run, baseline, contender, plan, *args):
        pairs = [
            SlicePair(
                baseline_samples=RATE,
                baseline_s=1.0,
                contender_samples=RATE * duel_ratio * (1 + 0.001 * math.sin(2.4 * place)),
                contender_s=1.0,
                baseline_first=place % 2 == 0,
                restart=place // 2,
            )
            for place in range(DUEL_PAIRS_MIN)
        ]
        return Duel(
            baseline=baseline.settings, contender=contender.settings, method="frozen", pairs=tuple(pairs), slice_s=1.0,
            head_s=0.0,
        )  # fmt: skip

    device = DeviceChoice(kind="replay")
    run = SimpleNamespace(
        options=SimpleNamespace(search="guided", budget_s=200.0, seed=0),
        plan=SimpleNamespace(
            baseline=PLAIN,
            device=device,
            is_iterable=False,
            terms=SimpleNamespace(rank_samples=10_000),
            limits=SimpleNamespace(returns_memory=False, shm_free_bytes=None, usable_cores=8.0, spare_cores=0.0),
            needs=SimpleNamespace(sample_bytes=None, device_memory_bytes=None),
            spec=lambda leg, *args: TrialSpec(settings=leg.settings, device=device, workload=WorkloadSpec()),
        ),
        cache="warm",
        trials=[measured(PLAIN, RATE)],
        duels=[],
        notes=(),
        samples_used=0,
        arena=object(),
        runner=SimpleNamespace(
            run=lambda spec, *args: measured(spec.settings, RATE * trial_ratio, "variant"), memory_end_bytes=None
        ),
        progress=SimpleNamespace(phase=lambda text: None),
        spent_s=lambda: 0.0,
        first_sample=lambda: 0,
        deadline_s=lambda spec: 0.0,
        count_samples=lambda trial: None,
    )
    monkeypatch.setattr(confirming, "_hold", held)
    return run, refine(run, Choice(settings=PLAIN, rate_per_s=RATE, ties=(), reasons=()), lambda settings: None)


def test_they_are_kept_for_a_duel_that_they_won(monkeypatch):
    run, choice = refined(monkeypatch, trial_ratio=1.2, duel_ratio=1.2)
    assert choice.settings == ONE, run.notes
    assert [(duel.baseline, duel.contender) for duel in run.duels] == [(PLAIN, ONE)]
    assert choice.reasons[-1].startswith("num_workers=4, batch_size=16, main_threads=1 won a duel")
    assert "workers waited for a core 50% of their time" in choice.reasons[-1]


@pytest.mark.parametrize(
    ("trial_ratio", "duel_ratio", "duels", "told"),
    [(0.9, 1.2, 0, "its trial was no faster"), (1.2, 0.95, 1, "the duel did not show it faster")],
)
def test_slower_threads_cost_their_trial_and_those_that_do_not_win_a_duel(
    monkeypatch, trial_ratio, duel_ratio, duels, told
):
    run, choice = refined(monkeypatch, trial_ratio=trial_ratio, duel_ratio=duel_ratio)
    assert choice.settings == PLAIN
    assert len(run.duels) == duels
    assert told in run.notes[-1]
