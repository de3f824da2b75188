"""The saved product of a probe. Terminal, HTML and JSON are projections of this one record."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.record import Record
from loadtune.records.resources import Environment, Reading
from loadtune.records.settings import DeviceChoice, SearchKind, Settings, WorkloadSpec

SCHEMA_VERSION = 1
"""History: 1, the first published format."""


class LeftOut(Record, frozen=True, kw_only=True):
    """Files that were seen and not used."""

    reason: str
    count: Annotated[int, Meta(ge=1)]
    examples: Annotated[tuple[str, ...], Meta(description="A few, relative to the data set.")] = ()


class DatasetSummary(Record, frozen=True, kw_only=True):
    """What was recognised."""

    source: Annotated[str, Meta(description="Path or target, as the user gave it.")]
    layout: Annotated[str, Meta(description="Name of the layout, or `target`.")]
    described: Annotated[str, Meta(description="One sentence: what was recognised, with folder names.")]
    sample_count: Annotated[int | None, Meta(description="None where the data set has no length.")] = None
    split: Annotated[str | None, Meta(description="Which split was used, where there is one.")] = None
    left_out: tuple[LeftOut, ...] = ()
    total_bytes: Annotated[int | None, Meta(description="Estimated bytes of all used files.")] = None
    class_count: int | None = None
    is_binary_mask: bool | None = None
    fixed_axes: Annotated[
        tuple[str, ...], Meta(description="Settings that the user's own DataLoader fixes, each with the reason.")
    ] = ()
    bad_samples: Annotated[tuple[str, ...], Meta(description="Broken samples met, `name: reason`.")] = ()
    bad_sample_count: int = 0


class Request(Record, frozen=True, kw_only=True):
    """What was asked for."""

    command: Annotated[tuple[str, ...], Meta(description="The command line, or the call, word by word.")]
    dataset: str
    device: DeviceChoice
    workload: WorkloadSpec
    budget_s: float
    baseline: Settings
    baseline_origin: Annotated[str, Meta(description="Where the baseline comes from, in words.")]
    num_workers: Annotated[tuple[int, ...] | None, Meta(description="None: chosen from machine and data.")] = None
    batch_sizes: Annotated[tuple[int, ...] | None, Meta(description="None: chosen from machine and data.")] = None
    epochs: Annotated[int, Meta(ge=1, description="Length of the run that hours saved are stated for.")] = 30
    order_seed: int = 0
    ranks_per_node: int = 1
    handed_over: Annotated[
        tuple[str, ...], Meta(description="What a script handed over as objects: dataset, model, loss, optimizer ...")
    ] = ()


class Expectation(Record, frozen=True, kw_only=True):
    """What a search expected of one setting."""

    settings: Settings
    expected_rate_per_s: Annotated[
        float | None, Meta(description="By the model, as it stood just before the setting was measured or left out.")
    ] = None
    left_out: Annotated[str | None, Meta(description="Why it was not measured; None: it was.")] = None


class SearchSummary(Record, frozen=True, kw_only=True):
    """How the settings to measure were found."""

    kind: SearchKind
    settings_count: Annotated[int, Meta(ge=0, description="Settings that a full grid of the same axes holds.")]
    grid_s: Annotated[
        float | None, Meta(description="Seconds that one round of it would have taken, at this run's seconds a trial.")
    ] = None
    expectations: tuple[Expectation, ...] = ()


class Ceilings(Record, frozen=True, kw_only=True):
    """What each half could do alone, in samples a second."""

    device_rate_per_s: Annotated[
        float | None, Meta(description="Training on a resident batch, at the recommended batch size.")
    ] = None
    device_rate_reason: Annotated[str | None, Meta(description="Why device_rate_per_s is None.")] = None
    loader_rates_per_s: Annotated[
        dict[str, float], Meta(description="num_workers (as text) to the loader's own rate with nothing consuming.")
    ] = msgspec.field(default_factory=dict)
    reached_ratio: Annotated[
        float | None, Meta(description="Recommended rate by the device's rate alone: accelerator utilisation.")
    ] = None


class Evidence(Record, frozen=True, kw_only=True):
    """One number behind a finding."""

    name: str
    value: float
    unit: Annotated[str, Meta(description="Empty for a pure number.")] = ""
    threshold: float | None = None
    source: Annotated[str | None, Meta(description="Where the threshold comes from.")] = None


class Finding(Record, frozen=True, kw_only=True):
    """What a rule saw and what to do about it."""

    rule: Annotated[str, Meta(description="Stable identifier, e.g. `loader-bound`: `loadtune explain` has its page.")]
    severity: Literal["info", "advice", "warning"]
    title: Annotated[str, Meta(description="One line.")]
    detail: Annotated[str, Meta(description="A sentence or two with the numbers in words.")]
    action: Annotated[str | None, Meta(description="What to do; None: nothing.")] = None
    evidence: tuple[Evidence, ...] = ()
    confidence: Annotated[
        Literal["high", "medium", "low"],
        Meta(description="high: measured in the loop; medium: inferred from two readings; low: one indirect reading."),
    ] = "high"
    confirm: Annotated[str | None, Meta(description="What would confirm or refute it.")] = None
    worth_per_s: Annotated[
        float | None,
        Meta(
            description="Samples a second that fixing it wins at most, by measured ceilings; None: no bound is known."
        ),
    ] = None
    between: Annotated[tuple[str, ...], Meta(description="Rules that the evidence cannot tell apart.")] = ()


Where = Literal[
    "preparing", "reading", "moving", "waiting", "copying", "computing", "launching", "epoch boundary", "contention"
]
"""preparing: transforms and decoding on a core; reading: workers blocked; moving: collate_fn and the way to the main
process; waiting: for data, its cause not told apart; contention: for a core."""


class Share(Record, frozen=True, kw_only=True):
    """A part of a step's time."""

    where: Where
    ratio: Annotated[float, Meta(ge=0, le=1, description="Of the time; the shares of all parts sum to 1.")]
    error_ratio: Annotated[
        float | None, Meta(description="How far off the share may be, in the same unit; None: one window only.")
    ] = None
    basis: Annotated[str, Meta(description="What it was measured by, in words.")] = ""


class WhatIf(Record, frozen=True, kw_only=True):
    """What one change could win at most. It is a bound from measured ceilings, no forecast."""

    change: str
    bound_rate_per_s: Annotated[float | None, Meta(description="At most this rate; None: see reason.")] = None
    reason: Annotated[str | None, Meta(description="Why there is no bound, or what it rests on.")] = None


class Attribution(Record, frozen=True, kw_only=True):
    """Where the time of one setting's steps goes, and what changes could win."""

    settings: Settings
    rate_per_s: float
    step_s: Annotated[float, Meta(description="Seconds a batch, its part of the epoch boundary included.")]
    shares: tuple[Share, ...] = ()
    what_ifs: tuple[WhatIf, ...] = ()
    notes: tuple[str, ...] = ()


class Verdict(StrEnum):
    """What the duel showed."""

    FASTER = "FASTER"
    SAME = "SAME"
    INCONCLUSIVE = "INCONCLUSIVE"


class Speedup(Record, frozen=True, kw_only=True):
    """The recommendation's rate by the baseline's, with a 95 % interval from the duel."""

    basis: Annotated[
        Literal["rate", "epoch"],
        Meta(
            description="rate: of steady rates; epoch: of whole epochs, which a duel over short ones was carried over "
            "to, where both are the same between the epochs' ends."
        ),
    ] = "rate"
    estimate: Annotated[float | None, Meta(description="None: no duel could be held; see reason.")] = None
    low: float | None = None
    high: float | None = None
    smallest_detectable_ratio: Annotated[
        float | None, Meta(description="Smallest speed-up (1.05 is 5 %) that this duel could have told from 1.")
    ] = None
    pairs: int = 0
    reason: Annotated[str | None, Meta(description="Why figures are None, or why the interval is not trusted.")] = None


class Baseline(Record, frozen=True, kw_only=True):
    """What the speed-up is over."""

    settings: Settings
    rate_per_s: float | None
    origin: Annotated[str, Meta(description="`--baseline`, or torch's suggestion, in words.")]
    failure: Annotated[
        str | None, Meta(description="Why it cannot run here, by its trials; None: it ran, or that was not found out.")
    ] = None


class ScheduleChange(Record, frozen=True, kw_only=True):
    """The learning rate's schedule before and after the batch changed, at equal samples seen."""

    described: Annotated[str, Meta(description="The new schedule in words, relative to the new base rate.")]
    is_assumed: Annotated[
        bool, Meta(description="No scheduler was handed over: DeepLab's polynomial one stands for it.")
    ] = False
    points: Annotated[
        tuple[tuple[int, float, float], ...],
        Meta(
            description="Samples seen, the rate before, the rate after, both by the old base rate; of the first "
            "parameter group. Empty where only the metric could tell, or the data have no length."
        ),
    ] = ()


class LearningRate(Record, frozen=True, kw_only=True):
    """What another batch size asks of the learning rate."""

    factor: Annotated[float, Meta(gt=0, description="Multiply the rate by this.")]
    rate: Annotated[float | None, Meta(description="The rate itself; None without --lr.")] = None
    rule: Annotated[str, Meta(description="Which rule, and where it comes from.")]
    base_batch_size: int
    batch_size: int
    warnings: tuple[str, ...] = ()
    code: Annotated[
        tuple[str, ...],
        Meta(description="Lines of Python that set optimizer and schedule for this batch; empty: nothing changes."),
    ] = ()
    schedule: Annotated[ScheduleChange | None, Meta(description="None: nothing changes, or no schedule is known.")] = (
        None
    )


class TrainingProgress(Record, frozen=True, kw_only=True):
    """What samples a second of a larger batch are worth, by the gradient noise scale: a sample of it teaches less."""

    samples_ratio: Annotated[
        float, Meta(gt=0, description="Samples that the same loss takes, by those at the baseline's batch.")
    ]
    ratio: Annotated[
        float, Meta(gt=0, description="Speed to the same loss by that of the setting chosen at the user's own batch.")
    ]
    low: Annotated[
        float | None, Meta(description="95 %, from the noise scale's interval alone; None: that has no such end.")
    ] = None
    high: float | None = None
    is_at_least: Annotated[
        bool, Meta(description="The noise scale is a lower bound only, so the true ratio is this or larger.")
    ] = False


class Cost(Record, frozen=True, kw_only=True):
    """What the recommendation takes beyond the baseline; negative is a saving; None was not measured."""

    memory_bytes: int | None = None
    cores: float | None = None
    device_memory_bytes: int | None = None
    unavailable: tuple[str, ...] = ()


AlternativeKind = Literal["larger batch", "accumulate"]


class Alternative(Record, frozen=True, kw_only=True):
    """An answer that changes more than the loader; its speed-up comes from screening, so it has no interval."""

    kind: AlternativeKind
    settings: Settings
    rate_per_s: float
    screening_ratio: Annotated[float, Meta(description="Its rate by the baseline's, both from screening.")]
    learning_rate: LearningRate
    note: str = ""
    progress: Annotated[
        TrainingProgress | None, Meta(description="None: no noise scale was given, or none could be told.")
    ] = None


class Recommendation(Record, frozen=True, kw_only=True):
    """The answer."""

    verdict: Verdict
    settings: Annotated[Settings, Meta(description="What to use, at the user's own batch size.")]
    rate_per_s: Annotated[float, Meta(gt=0)]
    baseline: Baseline
    speedup: Speedup
    learning_rate: LearningRate
    cost: Cost
    ties: Annotated[tuple[Settings, ...], Meta(description="As fast within the tie rule, and dearer.")] = ()
    alternatives: tuple[Alternative, ...] = ()
    reasons: Annotated[tuple[str, ...], Meta(description="Why this setting, one sentence each.")] = ()
    hours_saved: Annotated[
        float | None, Meta(description="Over the stated run length, from the duel's estimate; None without one.")
    ] = None
    hours_saved_basis: Annotated[str | None, Meta(description="The run length it is stated for.")] = None
    epoch_rate_per_s: Annotated[
        float | None, Meta(description="Rate of a whole epoch of the real length, its boundary included.")
    ] = None


class Report(Record, frozen=True, kw_only=True):
    """One probe."""

    schema_version: int = SCHEMA_VERSION
    loadtune_version: str
    created: Annotated[str, Meta(description="ISO 8601 with offset, when the probe began.")]
    status: Annotated[
        Literal["running", "complete", "interrupted", "failed"],
        Meta(description="running: written after a trial, the probe had not ended."),
    ]
    request: Request
    environment: Environment
    dataset: DatasetSummary
    trials: tuple[TrialResult, ...] = ()
    duels: tuple[Duel, ...] = ()
    ceilings: Ceilings = Ceilings()
    findings: tuple[Finding, ...] = ()
    attribution: Annotated[
        Attribution | None, Meta(description="Of the recommended setting; None where its trial was not decomposed.")
    ] = None
    recommendation: Recommendation | None = None
    facts: Annotated[
        dict[str, str] | None,
        Meta(description="What decided the answer, a digest each: a probe with the same may go on from here."),
    ] = None
    readings: Annotated[
        tuple[Reading, ...], Meta(description="Sources of readings: which are there; empty: not looked at.")
    ] = ()
    warnings: Annotated[tuple[str, ...], Meta(description="Whole-probe warnings, one or two lines each.")] = ()
    search: Annotated[SearchSummary | None, Meta(description="None in reports of before there was a choice.")] = None
    search_notes: Annotated[tuple[str, ...], Meta(description="What the search did and why it stopped.")] = ()
    seconds_spent: float = 0.0
    start_up_s: Annotated[float | None, Meta(description="Until the trial server was ready.")] = None
