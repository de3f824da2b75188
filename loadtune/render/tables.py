"""Which rows and cells do the page's tables hold? Texts with the plain values to sort by."""

from collections.abc import Iterable
from typing import NamedTuple

from loadtune.records.measurement import Measurement, TrialResult, TrialState
from loadtune.records.report import Finding, Report, Request
from loadtune.records.resources import Environment, GpuInfo
from loadtune.render.answer import baseline_settings, choice_word, is_of_setting
from loadtune.render.words import (
    NOT_MEASURED,
    ROLE_WORDS,
    STATE_WORDS,
    choose_bytes_unit,
    cores_of,
    format_bytes,
    format_column,
    format_number,
    format_percent,
    format_seconds,
    format_settings,
    format_trial,
    jitter_of,
    memory_of,
    one_line,
    other_settings,
    utilisation_of,
)

STATE_SHAPES = {
    TrialState.COMPLETE: "\u25cf",
    TrialState.FAILED: "\u2715",
    TrialState.OUT_OF_MEMORY: "\u25b2",
    TrialState.TIMED_OUT: "\u25d4",
    TrialState.CRASHED: "\u2715",
    TrialState.SKIPPED: "\u25cb",
    TrialState.INTERRUPTED: "\u25d1",
}
"""Shapes beside the words, so that a state is seen at a glance and never by colour alone."""


class Cell(NamedTuple):
    """One cell: what is shown, and the value to sort by (None: not measured, sorted last)."""

    text: str
    value: float | None


class TrialRow(NamedTuple):
    """One trial of the table; `failure` is empty for a complete one."""

    number: int
    setting: tuple[Cell, Cell]
    kind: str
    marks: tuple[str, ...]
    rate: Cell
    measured: tuple[Cell, ...]
    state: str
    state_shape: str
    is_complete: bool
    failure: str
    hint: str
    log_tail: str


class TrialTable(NamedTuple):
    """All trials, with the headings of what was measured and why some of it was not."""

    headings: tuple[str, ...]
    rows: tuple[TrialRow, ...]
    not_measured: tuple[str, ...]


class StepPart(NamedTuple):
    """A share of the device's time. `name` is also the part's CSS class."""

    name: str
    text: str
    start_percent: float
    width_percent: float


class StepRow(NamedTuple):
    """Where the time of one trial's steps went."""

    trial: str
    step: str
    parts: tuple[StepPart, ...]
    data_wait: str
    note: str
    once: str
    """What happens once, apart from the steady state."""


class EvidenceRow(NamedTuple):
    """One number behind a finding, in words."""

    name: str
    value: str
    threshold: str


def compute_trial_table(report: Report) -> TrialTable:
    """Return the trial table; each measured column has one unit."""
    trials = report.trials
    unit = choose_bytes_unit(memory_of(trial) for trial in trials)
    memory = [None if (count := memory_of(trial)) is None else count / unit.size_bytes for trial in trials]
    columns = (
        _compute_column([trial.rate_per_s for trial in trials]),
        _compute_percent_column([trial.spread_ratio for trial in trials]),
        _compute_percent_column([_stall_of(trial) for trial in trials]),
        _compute_percent_column([utilisation_of(trial) for trial in trials]),
        _compute_percent_column([jitter_of(trial) for trial in trials]),
        _compute_column([cores_of(trial) for trial in trials]),
        _compute_column(memory),
    )
    headings = ("spread, %", "stall, %", "GPU, %", "jitter, %", "CPU cores", f"memory, {unit.name}")
    rows = tuple(
        _compute_trial_row(report, trial, [column[index] for column in columns]) for index, trial in enumerate(trials)
    )
    return TrialTable(headings, rows, _compute_not_measured(trials))


def _compute_column(values: list[float | None]) -> list[Cell]:
    texts = iter(format_column([value for value in values if value is not None]))
    return [Cell(NOT_MEASURED, None) if value is None else Cell(next(texts), value) for value in values]


def _compute_percent_column(ratios: list[float | None]) -> list[Cell]:
    """One decimal throughout: finer shares of time are noise."""
    return [Cell(NOT_MEASURED, None) if ratio is None else Cell(f"{100 * ratio:.1f}", ratio) for ratio in ratios]


def _stall_of(trial: TrialResult) -> float | None:
    return None if trial.measurement is None else trial.measurement.stall_ratio


def _compute_trial_row(report: Report, trial: TrialResult, measured: list[Cell]) -> TrialRow:
    settings, failure = trial.settings, trial.failure
    is_complete = trial.state is TrialState.COMPLETE
    if not is_complete:
        measured = [Cell("", None) for _ in measured]
    return TrialRow(
        number=trial.number,
        setting=(
            Cell(str(settings.num_workers), settings.num_workers),
            Cell(str(settings.batch_size), settings.batch_size),
        ),
        kind=", ".join([ROLE_WORDS[trial.role], *other_settings(settings)]),
        marks=_compute_marks(report, trial),
        rate=measured[0],
        measured=tuple(measured[1:]),
        state=STATE_WORDS[trial.state],
        state_shape=STATE_SHAPES[trial.state],
        is_complete=is_complete,
        failure="" if failure is None else f"{failure.cause.value}: {one_line(failure.message)}",
        hint="" if failure is None or failure.hint is None else one_line(failure.hint),
        log_tail="" if failure is None else failure.log_tail,
    )


def _compute_marks(report: Report, trial: TrialResult) -> tuple[str, ...]:
    """Say whether a row is the user's setting or the one to use, as the answer names them."""
    if not is_of_setting(report, trial):
        return ()
    recommendation = report.recommendation
    is_use = recommendation is not None and trial.settings == recommendation.settings
    is_now = trial.settings == baseline_settings(report)
    return tuple(word for word, holds in (("now", is_now), (choice_word(recommendation), is_use)) if holds)


def _compute_not_measured(trials: Iterable[TrialResult]) -> tuple[str, ...]:
    """Return each reason for missing readings once, behind all readings that it explains, in order of appearance."""
    explained: dict[str, dict[str, None]] = {}
    for trial in trials:
        for item in () if trial.trace is None else trial.trace.unavailable:
            explained.setdefault(one_line(item.reason), {})[one_line(item.reading)] = None
    return tuple(f"{', '.join(readings)}: {reason}" for reason, readings in explained.items())


def compute_step_rows(report: Report) -> tuple[StepRow, ...]:
    """Return where a step's time went, for every complete trial that fed a device."""
    return tuple(
        _compute_step_row(trial, trial.measurement)
        for trial in report.trials
        if trial.measurement is not None and trial.consume == "device"
    )


def _compute_step_row(trial: TrialResult, measurement: Measurement) -> StepRow:
    wait_s = sum(window.data_wait_s for window in measurement.windows)
    step = NOT_MEASURED if measurement.step_s is None else format_seconds(measurement.step_s)
    parts = _compute_step_parts(measurement)
    return StepRow(
        trial=format_trial(trial),
        step=step,
        parts=parts,
        data_wait=format_percent(wait_s / measurement.duration_s),
        note="" if parts else f"{NOT_MEASURED}: this device has no timeline of its own",
        once=_compute_once(measurement),
    )


def _compute_once(measurement: Measurement) -> str:
    """Say what starting takes, and what an epoch's end adds."""
    startup = measurement.startup
    build = f"process and model {format_seconds(startup.process_s + startup.build_s)}"
    first = f"first batch {format_seconds(startup.first_batch_s)} after the loader's start"
    boundary = measurement.epoch_boundary_s
    end = NOT_MEASURED if boundary is None else f"{format_seconds(boundary)} more"
    return f"once: {build}, {first}; an epoch's end: {end}"


def _compute_step_parts(measurement: Measurement) -> tuple[StepPart, ...]:
    """Return the known parts of the device's time, one after the other; what they leave is `rest`."""
    total_s = measurement.duration_s
    shares = {}
    for name in ("compute", "copy", "idle"):
        field = "device_idle_s" if name == "idle" else f"{name}_s"
        values = [getattr(window, field) for window in measurement.windows]
        if all(value is not None for value in values):
            shares[name] = max(0.0, sum(values) / total_s)
    if not shares:
        return ()
    shares["rest"] = max(0.0, 1 - sum(shares.values()))
    scale = 100 / sum(shares.values())
    parts, start = [], 0.0
    for name, share in shares.items():
        if share >= 0.001:
            parts.append(StepPart(name, format_percent(share), round(start, 2), round(share * scale, 2)))
        start += share * scale
    return tuple(parts)


def compute_evidence(finding: Finding) -> tuple[EvidenceRow, ...]:
    """Return a finding's numbers in words."""
    rows = []
    for item in finding.evidence:
        unit = f" {one_line(item.unit)}" if item.unit else ""
        threshold = ""
        if item.threshold is not None:
            source = f" ({one_line(item.source)})" if item.source else ""
            threshold = f"threshold {format_number(item.threshold)}{unit}{source}"
        rows.append(EvidenceRow(one_line(item.name), f"{format_number(item.value)}{unit}", threshold))
    return tuple(rows)


def compute_environment(environment: Environment) -> tuple[tuple[str, str], ...]:
    """Return the machine and the software as label and text."""
    limits = environment.limits
    quota = "no quota" if limits.quota_cores is None else f"quota {format_number(limits.quota_cores)}"
    free = format_bytes(limits.memory_available_bytes)
    shm = NOT_MEASURED if limits.shm_total_bytes is None else format_bytes(limits.shm_total_bytes)
    gpus = "; ".join(_name_gpu(gpu) for gpu in environment.gpus)
    missing = {item.reading: item.reason for item in environment.unavailable}
    rows = [
        ("platform", environment.platform),
        ("CPU", environment.cpu_model or _explain("cpu_model", missing)),
        (
            "usable cores",
            f"{format_number(limits.usable_cores)} ({limits.affinity_cores} in the mask, {quota})",
        ),
        ("memory", f"{format_bytes(limits.memory_limit_bytes)} limit, {free} free"),
        ("shared memory", shm),
        ("GPU", gpus or _explain("gpus", missing)),
        ("file system", environment.file_system or _explain("file_system", missing)),
        ("start method", environment.start_method),
        ("Python", environment.python),
    ]
    versions = [(name, version) for name, version in sorted(environment.versions.items())]
    return tuple((one_line(label), one_line(text)) for label, text in [*rows, *versions])


def _name_gpu(gpu: GpuInfo) -> str:
    """Return a GPU's name, with the index that CUDA gives it where that is known."""
    return gpu.name if gpu.cuda_index is None else f"cuda:{gpu.cuda_index} {gpu.name}"


def _explain(reading: str, missing: dict[str, str]) -> str:
    reason = missing.get(reading)
    return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED


def compute_request(report: Report) -> tuple[tuple[str, str], ...]:
    """Return what was asked for as label and text."""
    request = report.request
    listed = {
        "num_workers": "chosen from machine and data" if request.num_workers is None else str(request.num_workers),
        "batch_size": "chosen from machine and data" if request.batch_sizes is None else str(request.batch_sizes),
    }
    rows = [
        ("data set", request.dataset),
        ("baseline", f"{format_settings(request.baseline)} ({request.baseline_origin})"),
        *((f"{name} tried", text.strip("(),")) for name, text in listed.items()),
        ("budget", format_seconds(request.budget_s)),
    ]
    return (*((label, one_line(text)) for label, text in rows), *compute_workload(request))


def compute_workload(request: Request) -> tuple[tuple[str, str], ...]:
    """Return what was trained, as label and text."""
    workload, handed = request.workload, set(request.handed_over)
    own_step = "your own step's" if {"train_step", "val_step"} & handed or workload.train_step_target else None
    model = own_step or ("your own" if "model" in handed else workload.model_target)
    rows = [
        ("model", model or f"DeepLabv3+ on {workload.backbone}, output stride {workload.output_stride}"),
        *(() if "dataset" in handed else [("crop", f"{workload.crop_px} px, augment {workload.augment}")]),
        ("precision", own_step or workload.precision),
        ("optimizer", own_step or ("your own" if "optimizer" in handed else workload.optimizer)),
        ("order seed", str(request.order_seed)),
    ]
    return tuple((label, one_line(text)) for label, text in rows)
