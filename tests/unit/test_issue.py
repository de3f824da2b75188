"""The text of a verification for an issue: redacted, bounded, and nothing in it ends its code blocks."""

import msgspec
import pytest

from loadtune.errors import OutputError
from loadtune.outputs import open_shared
from loadtune.records.resources import GpuInfo
from loadtune.render.issue import ISSUE_MAX_CHARS, LEFT_OUT, render_issue
from loadtune.render.redaction import Identity
from tests import verifications
from tests.examples import complete, duel, settings

ME = Identity("/home/margarethe", "margarethe", "secret-host")


def with_texts(found, **texts):
    """The first check with other words."""
    first = msgspec.structs.replace(found.checks[0], **texts)
    return msgspec.structs.replace(found, checks=(first, *found.checks[1:]))


def test_it_holds_what_a_maintainer_asks_for():
    """Verdict, machine, versions, every claim, and the record; readable without the record."""
    found = verifications.fails()
    text = render_issue(found, ME)
    assert text.startswith("### loadtune verify: Not all that loadtune claims holds here")
    for wanted in (found.environment.platform, "Python", "torch", *(check.id for check in found.checks)):
        assert wanted in text
    assert '"kind": "verification"' in text


def test_nothing_tells_whose_machine_it_was():
    """Home, user and host go, and so do the path of the data, the command line and the raw evidence."""
    evidence = {
        "trials": (complete(1, settings(2, 8), 100.0),),
        "duels": (duel(1.0, 0.01, settings(1, 8), settings(2, 8)),),
    }
    found = with_texts(verifications.holds(), measured="in /home/margarethe/x on secret-host by margarethe", **evidence)
    asked = msgspec.structs.replace(
        found.request, dataset="/mnt/acme-corp/customers/street", command=("x", "acme-corp")
    )
    summary = msgspec.structs.replace(found.dataset, source="/mnt/acme-corp/customers/street")
    text = render_issue(msgspec.structs.replace(found, request=asked, dataset=summary), ME)
    for secret in ("margarethe", "secret-host", "acme-corp", "baseline_samples", "spec_key"):
        assert secret not in text
    assert "in ~/x on [host] by [user]" in text
    assert "street" in text


def test_a_relative_path_goes_and_the_words_of_its_folder_stay():
    """`data/voc` is a path; the data set is not."""
    found = with_texts(verifications.holds(), measured="too few for a duel with these data: data/acme-corp/1.jpg")
    asked = msgspec.structs.replace(found.request, dataset="data/acme-corp", command=())
    text = render_issue(msgspec.structs.replace(found, request=asked), ME)
    assert "too few for a duel with these data: ~/1.jpg" in text


def test_paths_of_the_user_s_code_and_data_go_too():
    """Targets by their last part; the data's folder nowhere, not even in a warning; no serial number of a GPU."""
    found = verifications.holds()
    folder = "/mnt/acme-corp/customers"
    asked = found.request
    workload = msgspec.structs.replace(
        asked.workload,
        dataset_target=f"{folder}/train.py:make",
        model_target="/opt/acme-corp/net.py:make",
        train_step_target="/opt/acme-corp/step.py:make",
    )
    asked = msgspec.structs.replace(asked, dataset=f"{folder}/train.py:make", workload=workload)
    gpu = GpuInfo(uuid="GPU-1234", name="H100", memory_bytes=None, driver="580", mig_uuids=("MIG-5678",))
    machine = msgspec.structs.replace(found.environment, gpus=(gpu,))
    warned = (f"{folder}/a.jpg is broken\nhint: mend {folder}/a.jpg",)
    text = render_issue(
        msgspec.structs.replace(found, request=asked, environment=machine, warnings=warned), Identity("", "", "")
    )
    for secret in ("acme-corp", "customers", "GPU-1234", "MIG-5678"):
        assert secret not in text
    for kept in ("train.py:make", "net.py:make", "a.jpg is broken", "H100, driver 580"):
        assert kept in text


def test_a_name_that_is_not_utf_8_is_told_all_the_same():
    """As in the other files: in letters."""
    assert "### loadtune verify" in render_issue(verifications.hostile(), ME)


@pytest.mark.parametrize("runs", [1, 3, 7])
def test_backticks_do_not_end_a_code_block(runs):
    """Its fence is longer than any run of them within."""
    ticks = "`" * runs
    text = render_issue(with_texts(verifications.holds(), measured=f"a {ticks} b"), ME)
    fences = [line for line in text.splitlines() if line.startswith("```") and set(line) <= set("`json")]
    assert all(len(line.rstrip("json")) > runs for line in fences if ticks in text and fences.index(line) > 1)
    assert text.count("<details>") == 1


def test_a_long_one_still_fits():
    """The record goes first, then the end of the words, which says so."""
    middling = render_issue(with_texts(verifications.holds(), measured="word " * 8000), ME)
    assert len(middling) <= ISSUE_MAX_CHARS
    assert "<details>" not in middling
    longest = render_issue(with_texts(verifications.holds(), measured="word " * 40000), ME)
    assert len(longest) <= ISSUE_MAX_CHARS
    assert LEFT_OUT in longest


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    """Nor is a folder taken that cannot be made: both are said before anything is measured."""
    there = tmp_path / "issue.md"
    open_shared(there, force=False)
    assert not there.exists()
    there.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        open_shared(there, force=False)
    with pytest.raises(OutputError, match="cannot write"):
        open_shared(there / "below.md", force=False)
    open_shared(there, force=True)
    assert there.read_text() == "mine"
