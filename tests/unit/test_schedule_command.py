"""Does `loadtune schedule` show a schedule and its rescaling, in any terminal, and refuse what cannot be meant?"""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtune.cli import main
from loadtune.errors import UsageError
from loadtune.render.curve_chart import draw_curves
from loadtune.render.schedule import plan_lines
from loadtune.schedule.curve import Plateau, Polynomial, StepDecay, epochs
from loadtune.schedule.kinds import KINDS, ScheduleWords, make_schedule
from loadtune.schedule.plan import compute_plan, find_corners

POLY = "schedule poly --lr 0.007 --epochs 50 --samples 1464 --batch-size 16"
BOTH = f"{POLY} --to-batch-size 64 --optimizer sgd --warm-up 5"
EVERY_KIND = {
    "constant": "",
    "step": "--every 5 --gamma 0.5",
    "multistep": "--milestones 20,40",
    "exponential": "--k 0.1 --per epoch",
    "inverse": "--k 0.001 --per iteration",
    "poly": "",
    "cosine": "--floor 0.01",
    "one-cycle": "",
    "plateau": "--patience 3",
}


def run(command: str, capsys) -> tuple[int, str, str]:
    code = main(command.split())
    told = capsys.readouterr()
    return code, told.out, told.err


def make_poly(**changes):
    given = {"rate": 0.007, "epoch_count": 50, "samples_per_epoch": 1464, "batch_size": 16, "new_batch_size": 64}
    return compute_plan(Polynomial(total=50, unit=epochs(1464)), **(given | changes))


def test_every_kind_is_tested():
    """A new kind comes with its line in the table above."""
    assert EVERY_KIND.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_shown(kind, capsys):
    """With what another batch makes of it, and code that makes the same schedule."""
    words = f"schedule {kind} --lr 0.1 --epochs 50 --samples 1464 --batch-size 16 --to-batch-size 32"
    code, out, err = run(f"{words} {EVERY_KIND[kind]}", capsys)
    assert (code, err) == (0, "")
    assert "batch 32, learning rate 0.2" in out
    assert ("learning rate   * batch 16" in out) == (kind != "plateau")
    pasted = [line.strip() for line in out.split("paste\n")[1].splitlines()]
    scope: dict[str, object] = {}
    exec("\n".join(line for line in pasted if "anneal" not in line), scope)  # noqa: S102
    code, out, _ = run(f"{words} {EVERY_KIND[kind]} --json", capsys)
    assert repr(scope["schedule"]) in json.loads(out)["sides"][1]["code"][2]


def test_the_table_has_the_old_rate_times_the_factor(capsys):
    """At equal samples seen, at every point."""
    code, out, _ = run(f"{BOTH} --json", capsys)
    plan = json.loads(out)
    assert (code, plan["factor"], plan["epochs"]) == (0, 4.0, 50.0)
    assert [side["steps_per_epoch"] for side in plan["sides"]] == [92, 23]
    assert {point["epoch"] for point in plan["points"]} == {0, *range(5, 51, 5)}
    for point in plan["points"]:
        old, new = point["learning_rates"]
        assert new == pytest.approx(4 * old, rel=1e-12)
    assert plan["points"][-1]["steps"] == [4600.0, 1150.0]


def test_what_counts_epochs_is_said_to(capsys):
    """The constants of a schedule stepped once an epoch are the same for every batch."""
    kind = "schedule exponential --k 0.1 --lr 0.1 --epochs 9 --samples 100 --batch-size 10 --to-batch-size 20 --per"
    by_epoch = run(f"{kind} epoch", capsys)[1]
    assert "k 0.1\n" in by_epoch
    assert "for every batch alike" in by_epoch
    by_iteration = run(f"{kind} iteration", capsys)[1]
    assert "k 0.1 -> 0.2\n" in by_iteration
    assert "for every batch alike" not in by_iteration


def test_a_warm_up_silences_the_call_for_one(capsys):
    """Four times the batch asks for a warm-up, which there is or is not."""
    without = run(f"{POLY} --to-batch-size 64", capsys)[1]
    assert "warm up the learning rate" in without
    assert "warm up the learning rate" not in run(BOTH, capsys)[1]
    assert "warm up the learning rate" not in run(f"{POLY} --to-batch-size 64 --add-warm-up 5", capsys)[1]


def test_an_added_warm_up_begins_at_the_old_rate():
    """Only the new batch is warmed up; after it the rate is the old one times the factor."""
    plan = make_poly(added_warm_up=5)
    by_epoch = {point.epoch: point.learning_rates for point in plan.points}
    assert by_epoch[0] == pytest.approx((0.007, 0.007))
    assert by_epoch[5][1] == pytest.approx(4 * by_epoch[5][0])
    assert any("with a warm-up of its own" in line for line in plan_lines(plan))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_lines_fit_their_width(width):
    """All but the code to paste, down to a width at which the smallest chart no longer fits."""
    lines = plan_lines(make_poly(), width=width)
    code = lines.index("paste")
    assert max(len(line) for line in lines[:code]) <= max(width, 50)
    shown = next(line for line in lines if line.lstrip().startswith("epoch"))
    assert ("step, batch 64" in shown) == (width >= 80)


def test_colour_adds_nothing_but_codes():
    """The words are the same without."""
    plain, coloured = plan_lines(make_poly()), plan_lines(make_poly(), color=True)
    assert any("\x1b[1m" in line for line in coloured)
    assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "") for line in coloured] == plain


def test_in_a_pipe_it_is_plain_and_loads_no_torch():
    """As a command, where nothing is a terminal, and with NO_COLOR where one is."""
    script = f"import sys; from loadtune.cli import main; main({BOTH.split()!r}); print('torch' in sys.modules)"
    for changes in ({}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}):
        environment = {**os.environ, "COLUMNS": "70", "TERM": "xterm", **changes}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.isascii()
        assert done.stdout.splitlines()[-1] == "False"
        assert ("\x1b[1m" in done.stdout) == bool(changes)
        assert "\x1b[3" not in done.stdout  # labels are bold; nothing has a colour to begin with


def test_the_chart_shows_the_shape():
    """A fall from the top left to the bottom right, joined where it jumps."""
    lines = draw_curves([lambda at: 1.0 if at < 50 else 0.1], 100, 50, end_label="100", height=11)
    rows = [line[10:] for line in lines[:11]]
    assert rows[0].strip() == "*" * 20
    assert rows[9] == " " * 20 + "*" * 20
    assert all(row.strip() == "*" for row in rows[1:9])
    assert lines[0].startswith("       1 |")
    assert lines[10].startswith("       0 |")
    assert lines[12].endswith("100")


def test_where_two_curves_meet():
    """Marked with a letter of its own, not with a colour."""
    lines = draw_curves([lambda at: 1.0, lambda at: 1.0 if at > 50 else 0.0], 100, 50, end_label="", height=5)
    assert "#" in lines[0]
    assert "o" in lines[4]
    assert "*" in lines[0]


SIZES = st.just(0.0) | st.floats(1e-30, 1e9)


@settings(max_examples=30)
@given(SIZES, SIZES, st.integers(1, 300))
def test_a_chart_has_the_same_size_whatever_it_shows(first, second, width):
    """Nothing, or numbers of any size."""
    lines = draw_curves([lambda at: first, lambda at: second * at], 10.0, width, end_label="10")
    assert len(lines) == 16
    assert all(len(line) <= max(width, 30) for line in lines)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("schedule wave --lr 1 --epochs 1 --samples 9 --batch-size 1", "no schedule is called 'wave'"),
        (f"{POLY} --gamma 0.5", "--gamma says nothing about poly"),
        (f"{POLY} --every 3", "--every says nothing about poly"),
        (f"{POLY} --per batch", "--per batch is no unit"),
        (f"{POLY} --power -1", "power > 0"),
        (f"{POLY} --power nan", "finite"),
        (f"{POLY} --optimizer lion", "--optimizer lion"),
        (f"{POLY} --warm-up 0", "two points"),
        (f"{POLY} --warm-up-start 0.1", "without a warm-up"),
        (f"{POLY} --add-warm-up 5", "no other batch size"),
        (f"{POLY} --to-batch-size 8 --add-warm-up 5", "does not grow"),
        (f"{POLY} --to-batch-size 64 --add-warm-up 0", "warm-up of 0 epochs"),
        (f"{POLY} --to-batch-size 0", "not positive"),
        ("schedule poly --lr 0 --epochs 1 --samples 9 --batch-size 1", "not positive"),
        ("schedule poly --lr 1 --epochs 0 --samples 9 --batch-size 1", "no training: 0 epochs"),
        ("schedule poly --lr 1 --epochs nan --samples 9 --batch-size 1", "no training: nan epochs"),
        ("schedule poly --lr 1 --epochs 1e9 --samples 9 --batch-size 1", "no training: 1e+09 epochs"),
        ("schedule poly --lr 1 --epochs 1 --samples 0 --batch-size 1", "no training"),
        ("schedule step --lr 1 --epochs 9 --samples 9 --batch-size 1", "every how many epochs"),
        ("schedule step --lr 1 --epochs 9 --samples 9 --batch-size 1 --every 0", "every > 0"),
        ("schedule multistep --lr 1 --epochs 9 --samples 9 --batch-size 1", "after which epochs"),
        ("schedule multistep --lr 1 --epochs 9 --samples 9 --batch-size 1 --milestones 3,x", "'3,x'"),
        ("schedule multistep --lr 1 --epochs 9 --samples 9 --batch-size 1 --milestones 3,2", "in order"),
        ("schedule exponential --lr 1 --epochs 9 --samples 9 --batch-size 1", "how fast"),
        ("schedule exponential --lr 1 --epochs 9 --samples 9 --batch-size 1 --k 1", "once per what"),
        ("schedule exponential --lr 1 --epochs 9 --samples 9 --batch-size 1 --k 1 --gamma 1 --per epoch", "how fast"),
        ("schedule exponential --lr 1 --epochs 9 --samples 9 --batch-size 1 --gamma 2 --per epoch", "no decay"),
        ("schedule inverse --lr 1 --epochs 9 --samples 9 --batch-size 1 --per epoch", "how fast"),
        ("schedule plateau --lr 1 --epochs 9 --samples 9 --batch-size 1 --gamma 1", "factor < 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(command, told, capsys):
    """One line what, one line what to do, exit code 2."""
    code, out, err = run(command, capsys)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 2
    assert "hint: " in err


def test_k_and_gamma_are_one_thing_said_twice():
    """gamma = exp(-k), per the same unit."""
    given = {"kind": "exponential", "epochs": 9, "samples_per_epoch": 100, "batch_size": 10, "per": "iteration"}
    by_k = make_schedule(ScheduleWords(**given, k=0.01))
    by_gamma = make_schedule(ScheduleWords(**given, gamma=2.718281828459045**-0.01))
    assert by_gamma.ratio_at(500) == pytest.approx(by_k.ratio_at(500), rel=1e-12)
    assert by_k.ratio_at(500) == pytest.approx(2.718281828459045**-0.5)


def test_a_warm_up_of_a_plateau_is_its_curve():
    """It multiplies what the metrics leave of the rate."""
    words = ScheduleWords(kind="plateau", epochs=9, samples_per_epoch=100, batch_size=10, patience=2, warm_up=3)
    made = make_schedule(words)
    assert isinstance(made, Plateau)
    assert made.patience == 2
    assert (made.curve.ratio_at(0), made.curve.ratio_at(300)) == (pytest.approx(1 / 3), 1.0)
    plan = compute_plan(made, rate=0.1, epoch_count=9, samples_per_epoch=100, batch_size=10, new_batch_size=40)
    assert plan.points == ()
    assert plan.warnings == ()


def test_a_warm_up_added_to_a_plateau_begins_at_the_old_rate():
    """Its curve alone rises; what the metrics do is not touched."""
    given = {"rate": 0.1, "epoch_count": 9, "samples_per_epoch": 100, "batch_size": 10, "new_batch_size": 40}
    old, new = compute_plan(Plateau(patience=2), **given, added_warm_up=3).sides
    assert old.schedule == Plateau(patience=2)
    assert new.schedule.patience == 2
    assert new.schedule.curve.ratio_at(0) == 0.25
    assert new.schedule.curve.ratio_at(300) == 1.0


def test_a_step_longer_than_an_epoch_is_told():
    """The schedule still counts samples, but hardly any steps are left."""
    plan = make_poly(new_batch_size=2048)
    assert any("more than an epoch" in warning for warning in plan.warnings)


def test_milestones_have_rows_unless_there_are_too_many():
    """A thousand decays would be a thousand rows."""
    assert find_corners(StepDecay(every=5, unit=epochs(10)), 200) == (50, 100, 150, 200)
    assert find_corners(StepDecay(every=0.001, unit=epochs(10)), 200) == ()


def test_without_another_batch_there_is_one_side():
    """Nothing is rescaled that was not asked for."""
    plan = make_poly(new_batch_size=None)
    assert (len(plan.sides), plan.factor, plan.rule) == (1, None, None)
    with pytest.raises(UsageError, match="no other batch size"):
        make_poly(new_batch_size=None, added_warm_up=5)
