"""How are numbers, units, settings and foreign text put into words, the same for terminal and page?"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadtune.records.measurement import Role, TrialResult, TrialState
from loadtune.records.settings import DEFAULT_PREFETCH_FACTOR, DeviceChoice, Settings

NOT_MEASURED = "not measured"

GIB = 1024**3
MIB = 1024**2

SIGNIFICANT_DIGITS = 3
"""More would claim a precision that no trial has: rates of one setting differ by 2 to 8 % between rounds."""

LARGE_NUMBER_DIGITS = 4
"""From 1000 up, three digits would print round hundreds and hide what separates two tied settings."""

WILD_RATIO = 0.1
"""A bound below this, or above its inverse, says only that nothing is known: digits of its own would hide that."""

MINUTES_FROM_S = 180.0
"""Below this a duration reads better in seconds: budgets are given in seconds, and the default is 120 s."""

HOURS_FROM_S = 3600.0
"""From here on, seconds beside minutes say nothing."""

_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They reorder the text that follows, so a file name could rewrite the line that it is printed in."""

STATE_WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.FAILED: "failed",
    TrialState.OUT_OF_MEMORY: "out of memory",
    TrialState.TIMED_OUT: "timed out",
    TrialState.CRASHED: "crashed",
    TrialState.SKIPPED: "skipped",
    TrialState.INTERRUPTED: "interrupted",
}

ROLE_WORDS: dict[Role, str] = {
    "grid": "setting",
    "baseline": "baseline",
    "ceiling": "device alone",
    "loader": "loader alone",
    "variant": "variant",
}


class BytesUnit(NamedTuple):
    """The one unit of a column of byte counts."""

    name: str
    size_bytes: int


def visible(text: str) -> str:
    r"""Return foreign text without what acts on a terminal or page: control and reordering characters.

    Line ends and tabs stay. Lone surrogates (bytes of a file name that are not UTF-8) become `\udcff` in
    letters, so that the result can always be encoded.
    """
    kept = (char for char in text if char in "\n\t" or not _acts(char))
    return "".join(kept).encode("utf-8", "backslashreplace").decode("utf-8")


def _acts(char: str) -> bool:
    """Tell C0 and C1 controls, delete, and the bidirectional controls from characters that only show."""
    return ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or char in _BIDI_CONTROLS


def one_line(text: str) -> str:
    """Return foreign text fit for one line: as `visible`, with line ends and tabs as spaces."""
    return visible(text).replace("\n", " ").replace("\t", " ").rstrip()


def format_count(count: int) -> str:
    """Return a count with its thousands apart: `10,582`."""
    return f"{count:,}"


def format_number(value: float) -> str:
    """Return three significant digits, four from 1000 up, and never an exponent."""
    if value == 0:
        return "0"
    digits = LARGE_NUMBER_DIGITS if abs(value) >= 1000 else SIGNIFICANT_DIGITS
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:,.{count_decimals(rounded, digits)}f}"


def count_decimals(value: float, digits: int) -> int:
    """Return the decimals that show `value` with so many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def format_column(values: Sequence[float]) -> list[str]:
    """Return one text a value, with the decimals that suit the largest; what these blur keeps its own."""
    largest = max((abs(value) for value in values), default=0.0)
    digits = SIGNIFICANT_DIGITS if largest < 100 else LARGE_NUMBER_DIGITS
    decimals = min(3, count_decimals(largest, digits))
    return [
        f"{value:,.{decimals}f}" if count_decimals(value, 2) <= decimals else format_number(value) for value in values
    ]


def format_percent(ratio: float) -> str:
    """Return a ratio (0 to 1) as per cent: `3 %`, `0.4 %`, `97 %`."""
    percent = 100 * ratio
    text = f"{percent:.0f}" if abs(percent) >= 10 else f"{percent:.1f}".removesuffix(".0")
    return f"{text} %"


def format_rate(rate_per_s: float | None) -> str:
    """Return a rate with its unit, or that it was not measured."""
    return NOT_MEASURED if rate_per_s is None else f"{format_number(rate_per_s)} samples/s"


def format_worth(worth_per_s: float | None) -> str:
    """Say what a fix wins at most, with a blank before it; empty where no bound is known, or nothing is won."""
    return f" Worth at most {format_rate(worth_per_s)}." if worth_per_s else ""


def format_seconds(duration_s: float) -> str:
    """Return a duration in the unit that a person would pick: ms, s, min or h."""
    if 0 < abs(duration_s) < 1:
        return f"{format_number(1000 * duration_s)} ms"
    if abs(duration_s) < MINUTES_FROM_S:
        return f"{format_number(duration_s)} s"
    if abs(duration_s) < HOURS_FROM_S:
        minutes, seconds = divmod(round(duration_s), 60)
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    return f"{format_number(duration_s / 3600)} h"


def format_ratio(ratio: float) -> str:
    """Return how many times as large: `1.92x`."""
    return f"{format_number(ratio)}x"


def format_interval(estimate: float, low: float | None, high: float | None) -> str:
    """Return an estimate with its bounds in the form `1.92x [1.84 2.00]`; wild bounds get no digits of their own."""
    if low is None or high is None:
        return format_ratio(estimate)
    decimals = max(count_decimals(value, SIGNIFICANT_DIGITS) for value in (estimate, low, high))
    if low < WILD_RATIO or high > 1 / WILD_RATIO:
        decimals = count_decimals(1.0, SIGNIFICANT_DIGITS)
    return f"{estimate:.{decimals}f}x [{low:.{decimals}f} {high:.{decimals}f}]"


def choose_bytes_unit(counts: Iterable[int | None]) -> BytesUnit:
    """Return the unit for a whole column: GiB where the largest reaches one, else MiB."""
    largest = max((abs(count) for count in counts if count is not None), default=0)
    return BytesUnit("GiB", GIB) if largest >= GIB else BytesUnit("MiB", MIB)


def format_bytes(count: int) -> str:
    """Return a byte count in GiB or MiB."""
    unit = choose_bytes_unit([count])
    return f"{format_number(count / unit.size_bytes)} {unit.name}"


def format_change(text: str, change: float) -> str:
    """Return a formatted quantity with its sign spelt out, so that more and less cannot be mixed up."""
    if change == 0:
        return "no change"
    return f"+{text}" if change > 0 else text


def format_settings(settings: Settings) -> str:
    """Return a setting in DataLoader's own words; what equals torch's default is left out."""
    parts = [f"num_workers={settings.num_workers}", f"batch_size={settings.batch_size}"]
    return ", ".join([*parts, *other_settings(settings)])


def other_settings(settings: Settings) -> list[str]:
    """Return what a setting changes besides num_workers and batch_size, as `name=value`."""
    parts = []
    if settings.prefetch_factor not in {None, DEFAULT_PREFETCH_FACTOR}:
        parts.append(f"prefetch_factor={settings.prefetch_factor}")
    for name, default in (("pin_memory", False), ("persistent_workers", False), ("in_order", True)):
        if getattr(settings, name) is not default:
            parts.append(f"{name}={not default}")
    if settings.accumulation_steps > 1:
        parts.append(f"accumulation_steps={settings.accumulation_steps}")
    if settings.main_threads is not None:
        parts.append(f"main_threads={settings.main_threads}")
    return parts


def format_dataloader_line(settings: Settings) -> str:
    """Return the call to paste: valid Python as it stands, at 0 workers too; `dataset` is the user's name."""
    words = [f"{name}={value!r}" for name, value in settings.dataloader_kwargs().items()]
    return f"DataLoader({', '.join(['dataset', *words])})"


def format_threads_line(threads: int) -> str:
    """Return the call that gives the main process its threads, to paste before the training: valid Python."""
    return f"torch.set_num_threads({threads})"


def measured_threads(settings: Settings, trials: Sequence[TrialResult]) -> int | None:
    """Return the torch threads that the main process was given where this setting was measured.

    None where it was left to torch: off the CPU, unless the setting itself names them.
    """
    told = [t.threads for t in trials if t.settings == settings and t.role not in {"ceiling", "loader"}]
    return told[-1] if told else settings.main_threads


def format_device(device: DeviceChoice) -> str:
    """Return what trained: a device, or `replayed: NAME (origin)` where a profile played its part."""
    if device.kind == "replay":
        if device.profile is None:
            return "replayed: profile not recorded"
        return f"replayed: {one_line(device.profile.name)} ({device.profile.origin})"
    return "this CPU" if device.kind == "cpu" else one_line(device.name)


def format_trial(result: TrialResult) -> str:
    """Return what a trial measured, in words: its setting, or the half that it ran alone."""
    settings = format_settings(result.settings)
    return settings if result.role == "grid" else f"{settings} ({ROLE_WORDS[result.role]})"


def memory_of(result: TrialResult) -> int | None:
    """Return the memory a trial is charged with: PSS, or peak resident memory where PSS was not read."""
    if result.trace is None:
        return None
    return result.trace.pss_bytes if result.trace.pss_bytes is not None else result.trace.peak_memory_bytes


def utilisation_of(result: TrialResult) -> float | None:
    """Return the mean GPU utilisation while measuring; None where it was not read."""
    return None if result.trace is None else result.trace.utilisation_mean_ratio


def jitter_of(result: TrialResult) -> float | None:
    """Return the standard deviation of GPU utilisation over its samples; None where it was not read."""
    return None if result.trace is None else result.trace.jitter_ratio


def cores_of(result: TrialResult) -> float | None:
    """Return the CPU cores a trial used, workers and main process together; None unless both were read."""
    trace = result.trace
    if trace is None or trace.mean_worker_cores is None or trace.mean_main_cores is None:
        return None
    return trace.mean_worker_cores + trace.mean_main_cores
