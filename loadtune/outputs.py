"""Where do the results of a probe or verification go? Into a folder that is opened before anything is measured."""

import contextlib
import getpass
import platform
import re
import time
from pathlib import Path
from typing import Literal

from loadtune.errors import OutputError
from loadtune.records.report import Report
from loadtune.render.html import render_html
from loadtune.render.redaction import Identity, redact
from loadtune.render.saved import Saved, encode_report, replace_file, write_report
from loadtune.render.verification_html import render_verification_html

Kind = Literal["report", "verification"]
"""What is written, and what its files are called."""

REPORTS_FOLDER = Path("reports")
NAMES_MAX = 1000
"""Reports of one data set in one second; more is a loop gone wrong."""


class Outputs:
    """The files of one probe or verification.

    Args:
        folder: Where they go; it exists.
        json_copy: Another file for the JSON; None: none.
        kind: Their name: `report` or `verification`, with `.json` and `.html`.
        is_redacted: Whether what tells whose machine it was is left out of them.
    """

    def __init__(
        self, folder: Path, json_copy: Path | None = None, kind: Kind = "report", *, is_redacted: bool = False
    ) -> None:
        self.folder = folder
        self._is_redacted = is_redacted
        self.json_path = folder / f"{kind}.json"
        self.html_path = folder / f"{kind}.html"
        self._json_copy = json_copy

    def forget_if_empty(self) -> bool:
        """Remove the folder again where nothing was written, so that a refused run leaves no trace; say if so."""
        if self.json_path.exists():
            return False
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        return True

    def save(self, report: Saved) -> None:
        """Write the JSON, so that what was measured is never lost."""
        write_report(self.as_shown(report), self.json_path)

    def finish(self, report: Saved) -> None:
        """Write everything."""
        self.save(report)
        shown = self.as_shown(report)
        replace_file(self.html_path, render(shown).encode())
        if self._json_copy is not None:
            replace_file(self._json_copy, encode_report(shown))

    def as_shown(self, report: Saved) -> Saved:
        """Return what goes into the files."""
        return redact(report, identify()) if self._is_redacted else report


def identify() -> Identity:
    """Return what tells whose machine this is."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = ""
    try:
        home = str(Path.home())
    except RuntimeError:  # nor a home
        home = ""
    return Identity(home, user, platform.node())


def render(saved: Saved) -> str:
    """Return the page of a report or a verification."""
    return render_html(saved) if isinstance(saved, Report) else render_verification_html(saved)


def open_outputs(
    dataset: str,
    out: Path | None,
    json_copy: Path | None,
    *,
    force: bool,
    kind: Kind = "report",
    is_redacted: bool = False,
) -> Outputs:
    """Make the folder and see that it can be written, before anything is measured.

    Args:
        dataset: Named in the folder's name where `out` is None.
        out: The folder asked for.
        json_copy: Another file for the JSON.
        force: Whether files that are there may be replaced.
        kind: What will be written.
        is_redacted: Whether what tells whose machine it was is left out.

    Raises:
        OutputError: The folder or file is there already, or cannot be written.
    """
    for path in (json_copy, out if out is not None and not out.is_dir() else None):
        if path is not None and path.exists() and not force:
            raise OutputError(f"{path} exists", "choose another name, or overwrite it with --force")
    folder = _new_folder(dataset, kind) if out is None else out
    outputs = Outputs(folder, json_copy, kind, is_redacted=is_redacted)
    taken = [path for path in (outputs.json_path, outputs.html_path) if path.exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} exists", "choose another --out, or overwrite it with --force")
    for parent in {folder, *([] if json_copy is None else [json_copy.parent])}:
        _try_folder(parent, folder)
    return outputs


def open_shared(path: Path, *, force: bool) -> None:
    """See that a single file can be written, before anything is measured.

    Raises:
        OutputError: It is there already, or its folder cannot be written.
    """
    if path.is_dir() or (path.exists() and not force):
        raise OutputError(f"{path} exists", "choose another name, or overwrite a file with --force")
    _try_folder(path.parent, path)


def _try_folder(folder: Path, wanted: Path) -> None:
    """Make a folder and a file in it that is taken away again.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".loadtune-{time.time_ns()}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to {wanted}: {error.strerror or error}", "choose another folder with --out"
        ) from error


def _new_folder(dataset: str, kind: Kind) -> Path:
    """Return a folder under reports/ that is not there yet, named after data and time."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(dataset).name).strip("-.")[:40] or "dataset"
    name = name if kind == "report" else f"{name}-{kind}"
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (REPORTS_FOLDER / (stem if count == 0 else f"{stem}-{count}") for count in range(NAMES_MAX))
    return next(folder for folder in candidates if not folder.exists())
