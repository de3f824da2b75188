"""Home path, user and host leave every text, and nothing else changes."""

import msgspec
import pytest

from loadtune.records.report import Report
from loadtune.render.html import render_html
from loadtune.render.redaction import Identity, redact
from loadtune.render.saved import encode_report
from tests.examples import EXAMPLES, faster_report

OWN = Identity(home="/home/ada.l", user="ada.l", host="node-17.lab")


def with_traces(report: Report) -> Report:
    dataset = msgspec.structs.replace(
        report.dataset, source="/home/ada.l/data", bad_samples=("/scratch/ada.l/1.png: broken",), bad_sample_count=1
    )
    request = msgspec.structs.replace(
        report.request, dataset="/home/ada.l/data", command=("loadtune", "probe", "--dataset", "/home/ada.l/data")
    )
    return msgspec.structs.replace(
        report, dataset=dataset, request=request, warnings=("node-17.lab is busy\nhint: ask ada.l",)
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_that_tells_whose_it_is_is_left(name):
    found = redact(with_traces(EXAMPLES[name]()), OWN)
    for text in (encode_report(found).decode(), render_html(found)):
        assert "ada.l" not in text
        assert "node-17" not in text
    assert found.request.dataset == "~/data"
    assert found.dataset.bad_samples == ("/scratch/[user]/1.png: broken",)
    assert found.warnings == ("[host] is busy\nhint: ask [user]",)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_tells_nothing_stays_as_it_was(name):
    report = EXAMPLES[name]()
    assert redact(report, Identity(home="/root", user="root", host="localhost")) == report
    assert redact(report, Identity(home="/", user="", host="")) == report


def test_names_are_left_out_as_words_only():
    """A user called `ad` does not make `adam` another word, nor the home of `ada` that of `adam`."""
    report = msgspec.structs.replace(faster_report(), warnings=("adam at /home/adam, not ad",))
    found = redact(report, Identity(home="/home/ad", user="ad", host="h1"))
    assert found.warnings == ("adam at /home/adam, not [user]",)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_user_may_be_called_as_a_word_of_the_format(name):
    """Roles, states and verdicts stay; elsewhere the name is left out."""
    report = msgspec.structs.replace(with_traces(EXAMPLES[name]()), warnings=("ask grid",))
    found = redact(report, Identity(home="/home/grid", user="grid", host="complete"))
    assert found.warnings == ("ask [user]",)
    assert [trial.role for trial in found.trials] == [trial.role for trial in report.trials]
