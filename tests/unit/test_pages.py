"""Every rule has its page, every page names where its numbers come from, and the command shows them."""

import inspect
import re
from pathlib import Path

import pytest

import loadtune.advice
from loadtune.advice.pages import BY_RULE, PAGES
from loadtune.advice.rules import REMARKS, RULES
from loadtune.advice.thresholds import Threshold
from loadtune.cli import main
from loadtune.render.explaining import explain_lines, list_lines

ADVICE = Path(loadtune.advice.__file__).parent
IDS = {
    "jittery-gpu", "low-steady-gpu", "device-bound", "cpu-saturated", "storage-bound", "slow-samples", "copy-bound",
    "launch-bound", "main-process-bound", "loader-bound", "epoch-boundary", "slow-start", "shallow-prefetch",
    "thread-oversubscription", "pinned-workers", "cpu-quota", "memory-growth", "pin-pressure", "shared-gpu",
    "throttled-gpu", "synchronising-step", "small-batch-norm", "repeated-samples", "swap", "foreign-load",
    "undecided", "noise-scale", "noisy", "page-cache", "other-streams",
}  # fmt: skip


def test_every_rule_in_the_code_has_a_page_and_no_other():
    """Read off the sources: what a finding may be called."""
    files = [*(ADVICE / "rules").glob("*.py"), ADVICE / "cautions.py", ADVICE / "growth.py"]
    used = {name for file in files for name in re.findall(r'rule="([a-z-]+)"', file.read_text("utf-8"))}
    assert used == IDS == set(BY_RULE)
    assert len(PAGES) == len(BY_RULE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.rule)
def test_a_page_is_whole(page):
    """Sentences that end, thresholds with a source and an effect, and lines that fit."""
    for text in (page.meaning, page.evidence, page.validated):
        assert text.endswith(".")
    assert all(isinstance(each, Threshold) and each.source and each.effect for each in page.thresholds)
    lines = explain_lines(page, 80)
    assert lines[0] == page.rule
    assert max(map(len, lines)) <= 80


def read_thresholds(function, seen):
    """Return the thresholds that a function of `advice` reads, itself or through others there."""
    found, codes = set(), [function.__code__]
    for code in codes:  # and those within it: generators, lambdas
        codes += [each for each in code.co_consts if inspect.iscode(each)]
    for name in {name for code in codes for name in code.co_names}:
        value = getattr(inspect.getmodule(function), name, None)
        if isinstance(value, Threshold):
            found.add(value)
        elif inspect.isfunction(value) and value.__module__.startswith("loadtune.advice") and value not in seen:
            found |= read_thresholds(value, seen | {value})
    return found


@pytest.mark.parametrize("rule", [*RULES, *REMARKS], ids=lambda rule: rule.__name__)
def test_a_page_lists_every_threshold_that_its_rule_reads(rule):
    """Read off the code: a number that decides and is on no page could not be looked up."""
    named = re.findall(r'rule="([a-z-]+)"', inspect.getsource(rule))
    listed = {each for name in named for each in BY_RULE[name].thresholds}
    assert {each.name for each in read_thresholds(rule, {rule}) - listed} == set()


def test_all_rules_are_listed():
    listed = list_lines(80)
    assert {line.split()[0] for line in listed if not line.startswith(" ")} == IDS


def test_the_command_shows_a_page_a_list_or_what_was_meant(capsys):
    """And the exit code of a usage error for a rule that is none."""
    assert main(["explain", "swap"]) == 0
    assert "pswpin" in capsys.readouterr().out
    assert main(["explain"]) == 0
    assert "loader-bound" in capsys.readouterr().out
    assert main(["explain", "swop"]) == 2
    assert "did you mean swap?" in capsys.readouterr().err
