"""What terminal and page show of a split: short, labelled as bounds, and nothing where nothing is known."""

import msgspec
import pytest

from loadtune.records.report import Attribution, Finding, Share, WhatIf
from loadtune.render.attributing import compose_attribution, compute_attribution
from loadtune.render.html import render_html
from loadtune.render.terminal import answer_lines
from tests.examples import EXAMPLES, settings

FOUND = Attribution(
    settings=settings(2, 16),
    rate_per_s=100.0,
    step_s=0.16,
    shares=(
        Share(where="computing", ratio=0.6, error_ratio=0.02, basis="marks"),
        Share(where="reading", ratio=0.397, error_ratio=None, basis="<b>workers</b>"),
        Share(where="moving", ratio=0.003, error_ratio=0.0, basis="workers"),
    ),
    what_ifs=(
        WhatIf(change="data in RAM", bound_rate_per_s=150.0),
        WhatIf(change="decode twice as fast", reason="the workers' time was not measured"),
    ),
    notes=("A note.",),
)
LOADER = Finding(
    rule="storage-bound",
    severity="advice",
    title="Storage is the limit",
    detail="It is.",
    worth_per_s=50.0,
    confirm="Read it twice.",
    confidence="medium",
)


@pytest.fixture
def report():
    plain = next(iter(EXAMPLES.values()))
    plain = plain() if callable(plain) else plain
    return msgspec.structs.replace(plain, attribution=FOUND, findings=(LOADER,))


def test_the_terminal_has_two_lines_of_it(report):
    """Parts under half a per cent are left out; what has no bound as well."""
    rows = compose_attribution(report)
    assert rows[0] == ("a step", ("60 % computing, 40 % reading",))
    assert rows[1] == ("what if", ("at most, by measured ceilings: data in RAM 150 samples/s",))
    text = "\n".join(answer_lines(report))
    assert "a step   60 % computing" in text
    assert "Worth at most 50.0 samples/s." in " ".join(text.split())


def test_the_page_shows_uncertainty_bounds_and_the_rule(report):
    page = render_html(report)
    assert "up to 2 points" in page
    assert "150 samples/s (1.50x)" in page
    assert "no bound" in page
    assert "&lt;b&gt;workers" in page
    assert "About <code>storage-bound</code>" in page
    assert "To confirm it: Read it twice." in page


def test_a_rule_of_a_later_version_has_no_page(report):
    later = msgspec.structs.replace(LOADER, rule="of-tomorrow")
    assert "About <code>" not in render_html(msgspec.structs.replace(report, findings=(later,)))


def test_nothing_is_shown_where_nothing_was_split(report):
    bare = msgspec.structs.replace(report, attribution=None)
    assert compose_attribution(bare) == ()
    assert compute_attribution(bare) is None
    assert "What takes the time" not in render_html(bare)
