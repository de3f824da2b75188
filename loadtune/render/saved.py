"""How are reports and verifications kept on disk, and how do they come back? The JSON files and their schemas."""

import contextlib
import os
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from loadtune.errors import OutputError
from loadtune.records.diagnosis import DIAGNOSIS_SCHEMA_VERSION, Diagnosis
from loadtune.records.profile import PROFILE_SCHEMA_VERSION, ReplayProfile
from loadtune.records.report import SCHEMA_VERSION, Report
from loadtune.records.verification import VERIFICATION_SCHEMA_VERSION, Verification
from loadtune.render.words import one_line, visible

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What msgspec generates; a validator that is told another dialect would ignore `$defs`."""


Saved = Report | Verification
"""What a run leaves behind."""

SavedT = TypeVar("SavedT", Report, Verification)


class _Header(msgspec.Struct):
    """What every format has; read before the rest, since the rest may have changed."""

    schema_version: int
    kind: str = "report"


class _Format(NamedTuple, Generic[SavedT]):
    """How one kind of file is told from others, and what to do about a wrong one."""

    kind: str
    record: type[SavedT]
    version: int
    hint: str


_REPORT = _Format("report", Report, SCHEMA_VERSION, "give the report.json that `loadtune probe` named at its end")
_VERIFICATION = _Format(
    "verification",
    Verification,
    VERIFICATION_SCHEMA_VERSION,
    "give the verification.json that `loadtune verify` named at its end",
)


def encode_report(report: Saved | Diagnosis) -> bytes:
    r"""Return a report, verification or diagnosis as JSON in UTF-8, the same bytes for the same record.

    Lone surrogates (file names that are not UTF-8) are written in letters, as `\udcff`: most readers refuse a
    raw one.
    """
    try:
        compact = msgspec.json.encode(report, order="deterministic")
    except UnicodeEncodeError:
        compact = msgspec.json.encode(_in_letters(msgspec.to_builtins(report, order="deterministic")))
    return msgspec.json.format(compact, indent=1) + b"\n"


def _in_letters(value: Any) -> Any:
    """Copy plain JSON data with every lone surrogate spelt out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_in_letters(key): _in_letters(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_letters(item) for item in value]
    return value


def write_report(report: Saved, path: Path) -> None:
    """Write a report or verification so that a reader sees the old file or the new one, never a part of either.

    Args:
        report: What to save; it may still be running.
        path: The file to replace. Its folder must exist.

    Raises:
        OutputError: The file cannot be written. A file that was there before is unchanged.
    """
    replace_file(path, encode_report(report))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of either.

    Raises:
        OutputError: It cannot be written. A file that was there before is unchanged.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {visible(str(path))}: {error.strerror or error}",
            "choose another folder with --out, or make room and check the permissions of this one",
        ) from error


def read_report(path: Path) -> Report:
    """Read a saved report of any version up to this one.

    Raises:
        OutputError: The file cannot be read, is no report, or was written by a later version of loadtune.
    """
    return _decode(_read(path, _REPORT.hint), visible(str(path)), _REPORT)


def read_verification(path: Path) -> Verification:
    """Read a saved verification of any version up to this one.

    Raises:
        OutputError: As for `read_report`.
    """
    return _decode(_read(path, _VERIFICATION.hint), visible(str(path)), _VERIFICATION)


def read_saved(path: Path) -> Saved:
    """Read what a run left behind, whichever it is.

    Raises:
        OutputError: As for `read_report`.
    """
    name = visible(str(path))
    content = _read(path, "give the report.json or verification.json that loadtune named at its end")
    return decode_verification(content, name) if is_verification(content) else decode_report(content, name)


def is_verification(content: bytes) -> bool:
    """Tell a verification's JSON text, of any version, from a report's and from what is neither."""
    try:
        return msgspec.json.decode(content, type=_Header).kind == _VERIFICATION.kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def decode_report(content: bytes, name: str) -> Report:
    """Return the report that JSON text holds; `name` is what an error calls it.

    Raises:
        OutputError: The text is no report, or one of a later version.
    """
    return _decode(content, name, _REPORT)


def decode_verification(content: bytes, name: str) -> Verification:
    """Return the verification that JSON text holds; `name` is what an error calls it.

    Raises:
        OutputError: The text is no verification, or one of a later version.
    """
    return _decode(content, name, _VERIFICATION)


def _read(path: Path, hint: str) -> bytes:
    """Return the bytes of a file; a pipe is refused, since it may never end."""
    name = visible(str(path))
    if not path.is_file():
        raise OutputError(f"{name} is not a file", hint)
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(f"cannot read {name}: {error.strerror or error}", "check its permissions") from error


def _decode(content: bytes, name: str, wanted: _Format[SavedT]) -> SavedT:
    """Return the record that JSON text holds, or say in two lines why it holds none."""
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.kind != wanted.kind:
            raise OutputError(f"{name} is a loadtune {one_line(header.kind)}, not a {wanted.kind}", wanted.hint)
        if header.schema_version > wanted.version:
            raise OutputError(
                f"{name} has {wanted.kind} format {header.schema_version}, "
                f"and this loadtune reads formats up to {wanted.version}",
                "upgrade loadtune-probe, or read the file with the version that wrote it",
            )
        if header.schema_version < 1:
            raise msgspec.ValidationError(f"schema_version is {header.schema_version}")
        return msgspec.json.decode(content, type=wanted.record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OutputError(f"{name} is not a loadtune {wanted.kind}: {visible(str(error))}", wanted.hint) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `report.json`: every field with its meaning and unit."""
    return _describe_schema(Report, {"title": "loadtune report", "version": SCHEMA_VERSION})


def verification_schema() -> dict[str, Any]:
    """Return the JSON Schema of `verification.json`."""
    return _describe_schema(Verification, {"title": "loadtune verification", "version": VERIFICATION_SCHEMA_VERSION})


def diagnosis_schema() -> dict[str, Any]:
    """Return the JSON Schema of what `loadtune doctor --json` prints."""
    return _describe_schema(Diagnosis, {"title": "loadtune diagnosis", "version": DIAGNOSIS_SCHEMA_VERSION})


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of replay profiles."""
    return _describe_schema(ReplayProfile, {"title": "loadtune replay profile", "version": PROFILE_SCHEMA_VERSION})


def _describe_schema(record: type[msgspec.Struct], about: dict[str, Any]) -> dict[str, Any]:
    # Through JSON once: defaults that are tuples become the lists that a reader of the published text sees.
    described: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(record)))
    return {"$schema": SCHEMA_DIALECT} | about | described
