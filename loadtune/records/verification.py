"""The saved product of `loadtune verify`: which of the tool's claims hold on this machine, with these data."""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta

from loadtune.records.measurement import Duel, TrialResult
from loadtune.records.record import Record
from loadtune.records.report import DatasetSummary, Request
from loadtune.records.resources import Environment, Reading
from loadtune.records.settings import Settings

VERIFICATION_SCHEMA_VERSION = 1
"""History: 1, the first published format."""

RATIO_UNIT = "x"
"""Unit of a ratio of two rates; a figure with this unit and both bounds is drawn as an interval around 1."""


class Outcome(StrEnum):
    """What a check says about its claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "cannot be told"


class Figure(Record, frozen=True, kw_only=True):
    """One number that a check measured."""

    quantity: Annotated[str, Meta(description="What was measured, e.g. `rate by plain loop`.")]
    value: Annotated[float | None, Meta(description="None: not measured; see reason.")] = None
    unit: Annotated[
        str, Meta(description="Such as `x` (ratio of rates), `ratio` (a share), `s`, `bytes`; empty for a pure number.")
    ] = ""
    low: Annotated[float | None, Meta(description="Lower end of the interval or range; None: there is none.")] = None
    high: Annotated[float | None, Meta(description="Its upper end.")] = None
    reason: Annotated[str | None, Meta(description="Why value is None.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value is None and not self.reason:
            raise ValueError(f"{self.quantity} has neither a value nor a reason")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.quantity} has one bound of two")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.quantity} has its bounds the wrong way round: {self.low}, {self.high}")


class Check(Record, frozen=True, kw_only=True):
    """One claim, put to the test."""

    id: Annotated[str, Meta(min_length=1, description="Stable identifier, e.g. `plain-loop`.")]
    claim: Annotated[str, Meta(description="What loadtune claims, in one sentence.")]
    target: Annotated[str, Meta(description="When the claim holds, in words and numbers: `within 3 %`.")]
    measured: Annotated[str, Meta(description="What was seen, in one line of words.")]
    outcome: Outcome
    reason: Annotated[str | None, Meta(description="Why it fails or cannot be told; may explain one that holds.")] = (
        None
    )
    figures: tuple[Figure, ...] = ()
    foreign_cores: Annotated[
        float | None, Meta(description="Mean of the CPU cores busy outside the check; None: not read.")
    ] = None
    steal_ratio: Annotated[
        float | None, Meta(description="Share of the CPU time that the hypervisor took meanwhile; None: not read.")
    ] = None
    seconds_spent: Annotated[float, Meta(description="Wall seconds of the check.")] = 0.0
    duels: Annotated[tuple[Duel, ...], Meta(description="Evidence: the duels that were held.")] = ()
    trials: Annotated[tuple[TrialResult, ...], Meta(description="Evidence: the trials that ran.")] = ()
    notes: Annotated[tuple[str, ...], Meta(description="What a reader must know, one sentence each.")] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outcome is not Outcome.HOLDS and not self.reason:
            raise ValueError(f"check {self.id} {self.outcome.value} and says no reason")


class Verification(Record, frozen=True, kw_only=True):
    """One run of `loadtune verify`."""

    schema_version: int = VERIFICATION_SCHEMA_VERSION
    kind: Annotated[Literal["verification"], Meta(description="Tells this file from a report, which has no kind.")] = (
        "verification"
    )
    loadtune_version: str
    created: Annotated[str, Meta(description="ISO 8601 with offset, when the verification began.")]
    status: Annotated[
        Literal["running", "complete", "interrupted", "failed"],
        Meta(description="running: written after a check, the verification had not ended."),
    ]
    request: Request
    environment: Environment
    dataset: Annotated[DatasetSummary | None, Meta(description="What was recognised; None: not yet looked at.")] = None
    is_quick: Annotated[bool, Meta(description="Asked for with --quick: fewer repeats, wider intervals.")] = False
    settings: Annotated[Settings, Meta(description="The setting that the checks ran.")]
    checks: tuple[Check, ...] = ()
    readings: tuple[Reading, ...] = ()
    warnings: Annotated[tuple[str, ...], Meta(description="Of the whole run, one or two lines each.")] = ()
    seconds_spent: float = 0.0
    start_up_s: Annotated[float | None, Meta(description="Until the trial server was ready.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = [check.id for check in self.checks]
        if len(set(ids)) != len(ids):
            raise ValueError(f"two checks share an id: {', '.join(ids)}")

    @property
    def outcome(self) -> Outcome:
        """The worst of the checks. What could not be checked is not taken to hold; readings do not count."""
        outcomes = {check.outcome for check in self.checks}
        if Outcome.FAILS in outcomes:
            return Outcome.FAILS
        return Outcome.HOLDS if outcomes == {Outcome.HOLDS} else Outcome.UNKNOWN
