"""How a report is kept: the round trip, whole files only, refusals in two lines, the schema."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from loadtune.errors import OutputError
from loadtune.records.report import SCHEMA_VERSION
from loadtune.render.saved import decode_report, encode_report, read_report, schema, write_report
from loadtune.render.terminal import answer_lines
from tests.examples import EXAMPLES, faster_report, hostile_report

GOLDEN = Path(__file__).parent.parent / "golden" / "report-v1.json"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "hostile"])
def test_round_trip_is_identity(name: str, tmp_path: Path) -> None:
    """What is read is what was written."""
    report = EXAMPLES[name]()
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


def test_name_that_is_not_utf8_is_written_in_letters(tmp_path: Path) -> None:
    """Every JSON reader takes the file, and it shows as the report itself did."""
    write_report(hostile_report(), tmp_path / "report.json")
    content = (tmp_path / "report.json").read_bytes()
    assert b"photo-\\\\udcff.png" in content
    read = read_report(tmp_path / "report.json")
    assert encode_report(read) == content
    assert answer_lines(read) == answer_lines(hostile_report())


def test_file_of_format_1_is_read_for_ever() -> None:
    """The golden file never changes; LOADTUNE_UPDATE_GOLDEN=1 writes it only where there is none."""
    if os.environ.get("LOADTUNE_UPDATE_GOLDEN") == "1" and not GOLDEN.exists():
        write_report(faster_report(), GOLDEN)
    report = read_report(GOLDEN)
    assert report.schema_version == 1
    assert report.recommendation is not None
    assert report.recommendation.settings.num_workers == 4
    assert any(line.startswith("use ") for line in answer_lines(report))


def test_documented_fields_are_where_other_programs_look() -> None:
    """The paths that are promised to others."""
    saved = json.loads(encode_report(faster_report()))
    recommendation = saved["recommendation"]
    assert recommendation["verdict"] == "FASTER"
    assert recommendation["settings"]["num_workers"] == 4
    assert recommendation["settings"]["batch_size"] == 16
    assert recommendation["rate_per_s"] == 78.1
    assert recommendation["baseline"]["settings"]["num_workers"] == 0
    assert [recommendation["speedup"][name] for name in ("estimate", "low", "high")] == [1.9, 1.83, 1.97]
    assert recommendation["learning_rate"]["factor"] == 1.0
    assert {"ceilings", "seconds_spent"} <= saved.keys()
    assert all({"state", "settings", "rate_per_s"} <= trial.keys() for trial in saved["trials"])


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs the new report, not the one before."""
    path = tmp_path / "report.json"
    write_report(EXAMPLES["empty"](), path)
    before = path.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(faster_report(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_missing_folder_is_an_error_in_two_lines(tmp_path: Path) -> None:
    """Two lines: what happened and what to do."""
    with pytest.raises(OutputError) as caught:
        write_report(faster_report(), tmp_path / "absent" / "report.json")
    assert len(str(caught.value).splitlines()) == 2
    assert "--out" in caught.value.hint


def test_later_format_is_refused_in_two_lines_whatever_else_it_holds() -> None:
    """The version is read before the rest, which may have changed."""
    later = json.dumps({"schema_version": SCHEMA_VERSION + 1, "trials": "no longer a list"}).encode()
    with pytest.raises(OutputError) as caught:
        decode_report(later, "new.json")
    assert len(str(caught.value).splitlines()) == 2
    assert f"format {SCHEMA_VERSION + 1}" in caught.value.what
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"schema_version": "1"}',
        b'{"schema_version": 0}',
        b'{"schema_version": 1}',
        b"[" * 100_000,
        b'{"schema_version": 1, "x": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused_in_two_lines(content: bytes) -> None:
    """Neither a traceback nor a crash, however broken the file."""
    with pytest.raises(OutputError) as caught:
        decode_report(content, "bad.json")
    assert len(str(caught.value).splitlines()) == 2


def test_record_that_breaks_its_own_rules_is_refused() -> None:
    """A rate that its windows do not give is not read as a result."""
    saved = json.loads(encode_report(faster_report()))
    saved["trials"][0]["rate_per_s"] *= 2
    with pytest.raises(OutputError, match="not a loadtune report"):
        decode_report(json.dumps(saved).encode(), "edited.json")


def test_folder_and_fifo_are_refused_without_waiting(tmp_path: Path) -> None:
    """Only a file is read."""
    os.mkfifo(tmp_path / "fifo")
    for name in (".", "fifo", "absent"):
        with pytest.raises(OutputError, match="is not a file"):
            read_report(tmp_path / name)


def test_schema_describes_every_field_it_promises() -> None:
    """It is plain JSON with a title, the version and the meaning of each number."""
    published = schema()
    assert json.loads(json.dumps(published)) == published
    assert (published["title"], published["version"]) == ("loadtune report", SCHEMA_VERSION)
    assert "$id" not in published
    definitions = published["$defs"]
    assert {"Report", "Recommendation", "TrialResult"} <= definitions.keys()
    assert definitions["Window"]["properties"]["duration_s"]["description"]


def test_saved_report_fits_the_published_schema() -> None:
    """Another language's validator accepts what is written."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    for make in EXAMPLES.values():
        jsonschema.validate(json.loads(encode_report(make())), schema())


def test_bytes_are_the_same_for_the_same_report() -> None:
    """Dictionaries are ordered, so that files can be compared."""
    report = faster_report()
    versions = dict(reversed(report.environment.versions.items()))
    shuffled = msgspec.structs.replace(
        report, environment=msgspec.structs.replace(report.environment, versions=versions)
    )
    assert encode_report(shuffled) == encode_report(report)
