"""How is a report kept on disk, and how does it come back? The JSON file and its schema."""

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from loadtune.errors import OutputError
from loadtune.records.profile import PROFILE_SCHEMA_VERSION, ReplayProfile
from loadtune.records.report import SCHEMA_VERSION, Report
from loadtune.render.words import visible

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What msgspec generates; a validator that is told another dialect would ignore `$defs`."""


class _Version(msgspec.Struct):
    """The one field that every format has; read before the rest, since the rest may have changed."""

    schema_version: int


def encode_report(report: Report) -> bytes:
    r"""Return the report as JSON in UTF-8, the same bytes for the same report.

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


def write_report(report: Report, path: Path) -> None:
    """Write `report.json` so that a reader sees the old file or the new one, never a part of either.

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
    name = visible(str(path))
    if not path.is_file():
        raise OutputError(f"{name} is not a file", "give the report.json that `loadtune probe` named at its end")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OutputError(f"cannot read {name}: {error.strerror or error}", "check its permissions") from error
    return decode_report(content, name)


def decode_report(content: bytes, name: str) -> Report:
    """Return the report that JSON text holds; `name` is what an error calls it.

    Raises:
        OutputError: The text is no report, or one of a later version.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise OutputError(
                f"{name} has report format {version}, and this loadtune reads formats up to {SCHEMA_VERSION}",
                "upgrade loadtune-probe, or read the file with the version that wrote it",
            )
        if version < 1:
            raise msgspec.ValidationError(f"schema_version is {version}")
        return msgspec.json.decode(content, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OutputError(
            f"{name} is not a loadtune report: {visible(str(error))}",
            "give the report.json that `loadtune probe` named at its end",
        ) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `report.json`: every field with its meaning and unit."""
    return _describe_schema(Report, {"title": "loadtune report", "version": SCHEMA_VERSION})


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of replay profiles."""
    return _describe_schema(ReplayProfile, {"title": "loadtune replay profile", "version": PROFILE_SCHEMA_VERSION})


def _describe_schema(record: type[msgspec.Struct], about: dict[str, Any]) -> dict[str, Any]:
    # Through JSON once: defaults that are tuples become the lists that a reader of the published text sees.
    described: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(record)))
    return {"$schema": SCHEMA_DIALECT} | about | described
