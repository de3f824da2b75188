"""What does a diagnosis look like in a terminal? What is fine in a line each, then what is wrong, the worst last.

A terminal shows the end of what was printed, so the end is where a reader looks: the verdict, and above it what to do.
"""

import shlex
from collections import Counter
from collections.abc import Iterable

from rich.console import Console

from loadtune.records.diagnosis import RANKS, Diagnosis, Line, Severity
from loadtune.render.answer import Row
from loadtune.render.commands import NextStep
from loadtune.render.lines import format_next, format_row, print_lines, wrap
from loadtune.render.words import format_seconds, one_line

MARKS = {
    Severity.OK: "ok",
    Severity.UNKNOWN: "unknown",
    Severity.NOTE: "note",
    Severity.WARNING: "WARNING",
    Severity.ERROR: "ERROR",
}
"""What is wrong in capitals, so that it stands out without colour."""

MARK_WIDTH = max(map(len, MARKS.values())) + 2
"""Titles line up behind the marks."""

MARK_CODES = {
    Severity.OK: "\x1b[32m",
    Severity.UNKNOWN: "\x1b[2m",
    Severity.NOTE: "\x1b[36m",
    Severity.WARNING: "\x1b[1;33m",
    Severity.ERROR: "\x1b[1;31m",
}
"""Green, dim, cyan, bold yellow and bold red, on top of the words."""

RESET_CODE, BOLD_CODE = "\x1b[0m", "\x1b[1m"

ADVICE_LABEL_WIDTH = 5
"""Room for `why` and `fix`, and two spaces."""


def diagnosis_lines(diagnosis: Diagnosis, width: int = 80, color: bool = False) -> list[str]:
    """Return a diagnosis as lines without line ends.

    Args:
        diagnosis: What to show.
        width: Columns to fill. The command at the end is never wrapped, so that it can be pasted.
        color: Colour marks and set titles bold with ANSI codes. The words are the same without.
    """
    lines = [_bold(each, color, len("machine")) for each in format_row(_compose_machine(diagnosis), width)[:1]]
    lines += format_row(_compose_machine(diagnosis), width)[1:]
    for severity in RANKS:
        section = [
            text
            for title, line in _merge(line for line in diagnosis.lines if line.severity is severity)
            for text in _format(title, line, width, color)
        ]
        lines += ["", *section] if section else []
    verdict = wrap(compose_verdict(diagnosis), width, first="", rest="  ")
    lines += ["", *(_bold(each, color, len(each)) for each in verdict)]
    lines += wrap(compose_count(diagnosis), width, first="", rest="  ")
    step = compose_next(diagnosis)
    return lines if step is None else [*lines, *format_next(step, width)]


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print a diagnosis to a rich console, in colour where that console shows any."""
    print_lines(diagnosis_lines(diagnosis, console.width, console.color_system is not None), console)


def compose_verdict(diagnosis: Diagnosis) -> str:
    """Return the whole in one sentence."""
    wrong = [_count_and_name(diagnosis, severity) for severity in (Severity.ERROR, Severity.WARNING)]
    if not any(wrong):
        return "Nothing that could be seen here is wrong."
    ready = "Not ready to train" if wrong[0] else "Ready to train, though not at its best"
    return f"{ready}: {' and '.join(filter(None, wrong))}. What to do is above."


def _count_and_name(diagnosis: Diagnosis, severity: Severity) -> str:
    """Return `2 errors (torch's CUDA, data set)`; nothing where there is none."""
    lines = [line for line in diagnosis.lines if line.severity is severity]
    names = ", ".join(title for title, _ in _merge(lines))
    return f"{len(lines)} {severity}{'s' if len(lines) > 1 else ''} ({names})" if lines else ""


def compose_count(diagnosis: Diagnosis) -> str:
    """Say how many checks had nothing to complain of, and how long it took."""
    counts = Counter(line.severity for line in diagnosis.lines)
    words = {Severity.OK: "fine", Severity.UNKNOWN: "unknown", Severity.NOTE: "worth knowing"}
    parts = [f"{counts[severity]} {word}" for severity, word in words.items() if counts[severity]]
    took = format_seconds(diagnosis.seconds_spent)
    return f"Of {len(diagnosis.lines)} checks: {', '.join(parts) or 'none fine'}; took {took}."


def compose_next(diagnosis: Diagnosis) -> NextStep | None:
    """Return the command that makes most sense now; None: there are errors to deal with first."""
    if diagnosis.severity is Severity.ERROR:
        return None
    options = [] if diagnosis.dataset is not None else ["--dataset PATH"]
    if diagnosis.environment.gpus and not diagnosis.has_cuda_checks:
        options.append("--gpu")
    if options:
        kept = "" if diagnosis.dataset is None else f" --dataset {shlex.quote(one_line(diagnosis.dataset))}"
        what = "storage and page cache" if diagnosis.dataset is None else "CUDA itself, copies and the PCIe link"
        return NextStep(f"look at {what} as well", f"loadtune doctor{kept} {' '.join(options)}")
    return NextStep("measure", f"loadtune probe --dataset {shlex.quote(one_line(diagnosis.dataset or 'PATH'))}")


def _compose_machine(diagnosis: Diagnosis) -> Row:
    environment = diagnosis.environment
    parts = (environment.cpu_model or "unknown CPU", environment.platform, f"Python {environment.python}")
    return Row("machine", (one_line(f"{', '.join(parts)}, loadtune {diagnosis.loadtune_version}"),))


def _merge(lines: Iterable[Line]) -> list[tuple[str, Line]]:
    """Put GPUs of which the same is said into one line, and what is unknown for one reason into another."""
    by_words: dict[tuple[str | None, ...], list[Line]] = {}
    for line in lines:
        same = (line.check, line.title, line.found, line.reason, line.why, line.fix)
        by_words.setdefault(same if line.found is not None else (line.reason,), []).append(line)
    return [(_compose_title(group), group[0]) for group in by_words.values()]


def _compose_title(group: list[Line]) -> str:
    """Return `GPU 0 to 7 readings`, `swap`, or of several titles all of them."""
    gpus_by_title: dict[str, list[int]] = {}
    for line in group:
        gpus_by_title.setdefault(line.title, []).extend(() if line.gpu is None else (line.gpu,))
    titles = [f"{_compose_gpus(gpus)}{title}" for title, gpus in gpus_by_title.items()]
    return one_line(", ".join(titles))


def _compose_gpus(gpus: list[int]) -> str:
    if not gpus:
        return ""
    if len(gpus) > 2 and gpus == list(range(gpus[0], gpus[-1] + 1)):
        return f"GPU {gpus[0]} to {gpus[-1]} "
    return f"GPU {', '.join(map(str, gpus))} "


def _format(title: str, line: Line, width: int, color: bool) -> list[str]:
    """Return mark, title and what was found, and below them why it matters and what to do."""
    mark, margin = MARKS[line.severity].ljust(MARK_WIDTH), " " * MARK_WIDTH
    said = one_line(line.found if line.found is not None else line.reason or "")
    texts = wrap(f"{title}: {said}", width, first=mark, rest=margin)
    if color:
        head = texts[0][MARK_WIDTH:]
        bold = _bold(head, color, len(title)) if head.startswith(title) else head
        texts[0] = f"{MARK_CODES[line.severity]}{mark}{RESET_CODE}{bold}"
    for label, text in (("why", line.why), ("fix", line.fix)):
        if text:
            texts += format_row(Row(label, (one_line(text),)), width, margin=MARK_WIDTH, label_width=ADVICE_LABEL_WIDTH)
    return texts


def _bold(text: str, color: bool, length: int) -> str:
    return f"{BOLD_CODE}{text[:length]}{RESET_CODE}{text[length:]}" if color else text
