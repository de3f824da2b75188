"""What a diagnosis is, how it is told, and how it looks in a terminal."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtune.doctor.examine import _describe, judge
from loadtune.doctor.readings import Readings
from loadtune.doctor.subject import Subject
from loadtune.monitor.hazards import Hazard
from loadtune.records.diagnosis import RANKS, Diagnosis, GpuCapabilities, Line, Severity
from loadtune.render.diagnosis import (
    MARKS,
    compose_count,
    compose_next,
    compose_verdict,
    diagnosis_lines,
    print_diagnosis,
)
from loadtune.render.saved import diagnosis_schema, encode_report
from tests.examples import HOSTILE, NOT_UTF8, REORDERING
from tests.machines import DRIVER, GPU, NO_CUDA, NO_DRIVER, STORAGE, healthy, host, in_small_container

GOLDEN = Path(__file__).parent.parent / "golden"
CODES = re.compile(r"\x1b\[[\d;]*m")
SUBJECT = Subject("shared-memory", "memory", "/dev/shm")


def diagnosis(readings: Readings, **changes) -> Diagnosis:
    """Return what is said of a machine, on a platform that is everywhere the same."""
    environment = msgspec.structs.replace(_describe(readings), platform="Linux-6.18", python="3.11.7")
    made = Diagnosis(
        loadtune_version="0.1.0",
        created="2026-11-26T12:00:00+01:00",
        dataset=None if readings.storage is None else readings.storage.path,
        has_cuda_checks=readings.cuda is not None,
        environment=environment,
        lines=judge(readings),
        capabilities=tuple(
            GpuCapabilities(gpu=gpu.index, uuid=gpu.info.uuid, readings=gpu.readings) for gpu in readings.driver.gpus
        ),
        seconds_spent=0.87,
    )
    return msgspec.structs.replace(made, **changes)


def eight_gpus() -> Readings:
    """Return a node of which one GPU is in use and one is in MIG mode."""
    gpus = [replace(GPU, index=index) for index in range(8)]
    gpus[3] = replace(gpus[3], processes=1, used_bytes=31 << 30)
    gpus[5] = replace(gpus[5], is_mig=True)
    return healthy(driver=replace(DRIVER, gpus=tuple(gpus)), cuda=None)


def hostile() -> Readings:
    """Return names that act on a terminal wherever a name can be."""
    name = f"{HOSTILE} {REORDERING} {NOT_UTF8}"
    storage = replace(STORAGE, path=name, problem=f"cannot be listed: {name}", files=None)
    return replace(host(cpu_model=name, settings={"OMP_NUM_THREADS": name}), storage=storage)


MACHINES = {
    "healthy": healthy,
    "container": in_small_container,
    "no-gpu": lambda: healthy(driver=NO_DRIVER, cuda=NO_CUDA, storage=None),
    "eight-gpus": eight_gpus,
    "hostile": hostile,
}


def test_a_line_says_what_its_severity_promises() -> None:
    """Unknown has a reason and nothing found; a warning and an error say why it matters and what to do."""
    with pytest.raises(ValueError, match="says no reason"):
        SUBJECT.unknown("")
    with pytest.raises(ValueError, match="lacks why"):
        SUBJECT.warning("64 MiB", "", "more")
    with pytest.raises(ValueError, match="lacks why"):
        SUBJECT.error("64 MiB", "bus errors", "")
    with pytest.raises(ValueError, match="is ok and says None"):
        Line(check="x", topic="memory", severity=Severity.OK, title="x")
    with pytest.raises(ValueError, match="is unknown and says"):
        Line(check="x", topic="memory", severity=Severity.UNKNOWN, title="x", found="something", reason="none")
    line = SUBJECT.hazard(Hazard("found", "why", "fix"))
    assert (line.severity, line.found, line.why, line.fix) == (Severity.WARNING, "found", "why", "fix")


@given(st.lists(st.sampled_from(Severity)))
def test_the_worst_line_decides(severities: list[Severity]) -> None:
    """What is unknown is not taken to be wrong."""
    make = {
        Severity.OK: SUBJECT.ok("x"),
        Severity.UNKNOWN: SUBJECT.unknown("x"),
        Severity.NOTE: SUBJECT.note("x", "y", None),
        Severity.WARNING: SUBJECT.warning("x", "y", "z"),
        Severity.ERROR: SUBJECT.error("x", "y", "z"),
    }
    found = diagnosis(healthy(), lines=tuple(make[each] for each in severities))
    assert found.severity is max(severities, key=RANKS.index, default=Severity.OK)


def test_checks_have_identifiers_of_their_own() -> None:
    """Once a diagnosis, or once a GPU of it."""
    for readings in (healthy(), in_small_container(), eight_gpus()):
        keys = [(line.check, line.gpu) for line in judge(readings)]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", MACHINES)
def test_json_fits_its_published_schema_and_comes_back(name: str) -> None:
    """Names that are not UTF-8 are spelt out."""
    made = diagnosis(MACHINES[name]())
    content = encode_report(made)
    schema = json.loads(json.dumps(diagnosis_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(content), schema)
    back = msgspec.json.decode(content, type=Diagnosis)
    if name != "hostile":
        assert back == made
    assert back.severity is made.severity


def test_a_diagnosis_is_no_report(tmp_path: Path) -> None:
    """`loadtune report` says so in two lines."""
    from loadtune.errors import OutputError
    from loadtune.render.saved import read_saved

    file = tmp_path / "doctor.json"
    file.write_bytes(encode_report(diagnosis(healthy())))
    with pytest.raises(OutputError, match="is a loadtune diagnosis, not a report"):
        read_saved(file)


@pytest.mark.parametrize("name", MACHINES)
def test_terminal_matches_its_golden(name: str) -> None:
    """The whole answer at 80 columns; LOADTUNE_UPDATE_GOLDEN=1 writes it anew."""
    shown = "\n".join(diagnosis_lines(diagnosis(MACHINES[name]()))) + "\n"
    golden = GOLDEN / f"diagnosis-{name}.txt"
    if os.environ.get("LOADTUNE_UPDATE_GOLDEN") == "1":
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in MACHINES if name != "hostile"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_the_terminal(name: str, width: int) -> None:
    """All but the command at the end."""
    lines = diagnosis_lines(diagnosis(MACHINES[name]()), width)
    assert [line for line in lines if len(line) > width and not line.startswith("  loadtune ")] == []


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("width", [40, 80])
def test_colour_adds_codes_and_changes_no_word(name: str, width: int) -> None:
    """Without its codes the coloured answer is the plain one."""
    made = diagnosis(MACHINES[name]())
    coloured = "\n".join(diagnosis_lines(made, width, color=True))
    assert CODES.sub("", coloured) == "\n".join(diagnosis_lines(made, width))
    assert coloured != CODES.sub("", coloured)


def test_nothing_in_a_name_acts_on_the_terminal() -> None:
    """Neither by escape nor by reordering, and nothing that cannot be encoded."""
    shown = "\n".join(diagnosis_lines(diagnosis(hostile())))
    shown.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_the_worst_comes_last_before_the_verdict() -> None:
    """Marks in the order of severity; the end of the screen is what a reader sees."""
    lines = diagnosis_lines(diagnosis(in_small_container()))
    marks = [next((mark for mark in MARKS.values() if line.startswith(f"{mark} ")), None) for line in lines]
    seen = [mark for mark in marks if mark is not None]
    order = list(MARKS.values())
    assert seen == sorted(seen, key=order.index)
    assert seen[-1] == "ERROR"
    verdict = next(index for index, line in enumerate(lines) if line.startswith("Not ready to train: 2 errors ("))
    assert verdict > max(index for index, mark in enumerate(marks) if mark is not None)


def test_gpus_of_which_the_same_is_said_share_a_line() -> None:
    """Six of eight are alike."""
    shown = "\n".join(diagnosis_lines(diagnosis(eight_gpus()), 200))
    assert "GPU 0, 1, 2, 4, 6, 7 device: NVIDIA H100" in shown
    assert "GPU 0 to 7 readings: utilisation" in shown
    assert "WARNING  GPU 3 other users: 1 other process, 31.0 GiB in use" in shown
    assert "note     GPU 5 MIG: on" in shown


def test_what_is_unknown_for_one_reason_shares_a_line() -> None:
    """Without CUDA, four checks say why once."""
    shown = "\n".join(diagnosis_lines(diagnosis(MACHINES["no-gpu"]()), 200))
    reason = "no CUDA: Found no NVIDIA driver on your system"
    assert f"unknown  CUDA, device order, PCIe link under load, copy rates: {reason}" in shown
    assert shown.count(reason) == 1


def test_the_verdict_is_one_sentence() -> None:
    """Of errors, of warnings, of neither."""
    assert compose_verdict(diagnosis(healthy())) == "Nothing that could be seen here is wrong."
    warned = diagnosis(healthy(), lines=(SUBJECT.warning("x", "y", "z"),))
    assert compose_verdict(warned).startswith("Ready to train, though not at its best: 1 warning (/dev/shm). What")
    wrong = diagnosis(healthy(), lines=(SUBJECT.warning("x", "y", "z"), *[SUBJECT.error("x", "y", "z")] * 2))
    assert compose_verdict(wrong).startswith("Not ready to train: 2 errors (/dev/shm) and 1 warning (/dev/shm). What")
    assert compose_count(wrong) == "Of 3 checks: none fine; took 870 ms."


@pytest.mark.parametrize(
    ("readings", "command"),
    [
        (healthy(), "loadtune probe --dataset /data/voc"),
        (healthy(cuda=None), "loadtune doctor --dataset /data/voc --gpu"),
        (healthy(cuda=None, driver=NO_DRIVER), "loadtune probe --dataset /data/voc"),
        (healthy(storage=None), "loadtune doctor --dataset PATH"),
        (healthy(storage=None, cuda=None), "loadtune doctor --dataset PATH --gpu"),
        (healthy(storage=replace(STORAGE, path="/my data")), "loadtune probe --dataset '/my data'"),
        (in_small_container(), None),
    ],
)
def test_the_next_command_looks_further_or_measures(readings: Readings, command: str | None) -> None:
    """After an error there is something else to do first."""
    step = compose_next(diagnosis(readings))
    assert (None if step is None else step.command) == command


@pytest.mark.parametrize("has_color", [True, False])
def test_a_console_shows_colour_where_it_has_any(has_color: bool) -> None:
    """A file gets words."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, color_system="standard" if has_color else None, force_terminal=has_color)
    print_diagnosis(diagnosis(healthy()), console)
    shown = stream.getvalue()
    assert ("\x1b[" in shown) is has_color
    assert CODES.sub("", shown).splitlines() == diagnosis_lines(diagnosis(healthy()))
