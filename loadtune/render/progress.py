"""What is shown while a probe runs? A live line on a terminal, plain lines elsewhere, nothing when quiet."""

import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadtune.records.measurement import TrialResult, TrialState
from loadtune.render.words import (
    ROLE_WORDS,
    STATE_WORDS,
    cores_of,
    format_bytes,
    format_number,
    format_percent,
    format_rate,
    format_settings,
    memory_of,
    one_line,
    other_settings,
    utilisation_of,
)

REFRESH_PER_S = 2
"""Redraws of the live line. Each takes CPU from the trial being measured: more would show in its figures."""

RATE_COLUMN_WIDTH = 14
"""`1,234 samples/s`; a longer rate pushes its line's tail to the right."""


class Progress(Protocol):
    """What a probe tells while it runs. Texts may hold foreign names: implementations make them harmless."""

    def start(self, text: str) -> None:
        """Begin to show; `text` says what the probe is about."""

    def phase(self, text: str) -> None:
        """Say what is being done between trials, such as listing the data set or holding the duel."""

    def trial_started(self, k: int, n: int, label: str, seconds_left: float | None) -> None:
        """Trial `k` of about `n` began; `seconds_left` of the whole budget, None where unknown."""

    def trial_finished(self, result: TrialResult, best: TrialResult | None) -> None:
        """Leave one permanent line for a trial; `best` is the fastest so far."""

    def note(self, text: str) -> None:
        """Leave one permanent line."""

    def stop(self) -> None:
        """End what is live; calling it twice is harmless."""


class SilentProgress:
    """Shows nothing."""

    def start(self, text: str) -> None:
        """Ignore it."""

    def phase(self, text: str) -> None:
        """Ignore it."""

    def trial_started(self, k: int, n: int, label: str, seconds_left: float | None) -> None:
        """Ignore it."""

    def trial_finished(self, result: TrialResult, best: TrialResult | None) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Do nothing."""


class PlainProgress:
    """Writes one flushed line an event: for logs and pipes.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._position = ""

    def start(self, text: str) -> None:
        """Write what the probe is about."""
        self._write(text)

    def phase(self, text: str) -> None:
        """Write what is being done."""
        self._write(text)

    def trial_started(self, k: int, n: int, label: str, seconds_left: float | None) -> None:
        """Remember the position; the line comes with the result, so that a log has one line a trial."""
        self._position = format_position(k, n)

    def trial_finished(self, result: TrialResult, best: TrialResult | None) -> None:
        """Write the trial's line."""
        self._write(f"{self._position}  {format_result(result)}")

    def note(self, text: str) -> None:
        """Write it."""
        self._write(text)

    def stop(self) -> None:
        """Do nothing: every line is already flushed."""

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        line = one_line(text).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveProgress:
    """Redraws one line on a terminal, and leaves a permanent line above it for every finished trial.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._position = ""
        self._doing = ""
        self._best = ""
        self._ends_s: float | None = None

    def start(self, text: str) -> None:
        """Begin the live line."""
        self._doing = one_line(text)
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def phase(self, text: str) -> None:
        """Show what is being done."""
        self._position, self._doing = "", one_line(text)

    def trial_started(self, k: int, n: int, label: str, seconds_left: float | None) -> None:
        """Show the trial and count the time left down."""
        self._position, self._doing = format_position(k, n), one_line(label)
        self._ends_s = None if seconds_left is None else time.monotonic() + seconds_left

    def trial_finished(self, result: TrialResult, best: TrialResult | None) -> None:
        """Leave the trial's line and show the best so far."""
        self._print(f"{self._position}  {format_result(result)}")
        if best is not None:
            self._best = f"best {format_rate(best.rate_per_s)}: {format_settings(best.settings)}"

    def note(self, text: str) -> None:
        """Leave a permanent line."""
        self._print(one_line(text))

    def stop(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        """Print text as it is: a Text is not read for markup."""
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> Text:
        """Return the live line; called from rich's refreshing thread."""
        left = ""
        if self._ends_s is not None:
            left = f"{max(0.0, self._ends_s - time.monotonic()):.0f} s left"
        parts = [part for part in (self._position, self._doing, left, self._best) if part]
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")


def make_progress(stream: TextIO, *, quiet: bool = False) -> Progress:
    """Return what suits a stream: live on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return SilentProgress()
    return LiveProgress(stream) if stream.isatty() else PlainProgress(stream)


def format_position(k: int, n: int) -> str:
    """Return ` 8/14`, padded so that the lines of one probe stand in columns."""
    return f"{k:>{max(2, len(str(n)))}}/{n}"


def format_result(result: TrialResult) -> str:
    """Return one trial as one line: its settings, then what it measured or how it ended."""
    settings = result.settings
    columns = [f"num_workers={settings.num_workers:<2} batch_size={settings.batch_size:<3}"]
    columns += other_settings(settings)
    if result.state is not TrialState.COMPLETE:
        message = "" if result.failure is None else f": {one_line(result.failure.message)}"
        return "  ".join([*columns, STATE_WORDS[result.state] + message])
    spread = "" if result.spread_ratio is None else f" +-{format_percent(result.spread_ratio)}"
    columns.append((format_rate(result.rate_per_s).rjust(RATE_COLUMN_WIDTH) + spread).ljust(RATE_COLUMN_WIDTH + 7))
    cores, memory, utilisation = cores_of(result), memory_of(result), utilisation_of(result)
    if utilisation is not None:
        columns.append(f"GPU {format_percent(utilisation)}")
    if cores is not None:
        columns.append(f"{format_number(cores)} cores")
    if memory is not None:
        columns.append(format_bytes(memory))
    if result.role != "grid":
        columns.append(f"({ROLE_WORDS[result.role]})")
    return "  ".join(columns).rstrip()
