"""The product of `loadtune doctor`: what was found on this machine, why it matters, and what to do, line by line."""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta

from loadtune.records.record import Record
from loadtune.records.report import Evidence
from loadtune.records.resources import Environment, Reading

DIAGNOSIS_SCHEMA_VERSION = 1
"""History: 1, the first published format."""

Topic = Literal["processor", "memory", "processes", "data", "software", "gpu"]
"""What a line is about. Lines of one severity are shown in this order."""


class Severity(StrEnum):
    """How bad a finding is, from the harmless to the worst."""

    OK = "ok"
    UNKNOWN = "unknown"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


RANKS = tuple(Severity)
"""From the harmless to the worst: what is unknown is worse than what is fine, and better than what is wrong."""


class Line(Record, frozen=True, kw_only=True):
    """One thing that was looked at."""

    check: Annotated[str, Meta(min_length=1, description="Stable identifier, e.g. `shared-memory`.")]
    topic: Topic
    gpu: Annotated[int | None, Meta(description="Which GPU, by NVML's index; None: none in particular.")] = None
    severity: Severity
    title: Annotated[str, Meta(min_length=1, description="What was looked at, in people's words: `/dev/shm`.")]
    found: Annotated[str | None, Meta(description="What was found, with its numbers; None: unknown.")] = None
    reason: Annotated[str | None, Meta(description="Why it is unknown.")] = None
    why: Annotated[str | None, Meta(description="Why it matters to a training.")] = None
    fix: Annotated[str | None, Meta(description="What to do.")] = None
    evidence: Annotated[tuple[Evidence, ...], Meta(description="The numbers behind it.")] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.found is None) != (self.severity is Severity.UNKNOWN):
            raise ValueError(f"{self.check} is {self.severity} and says {self.found!r}")
        if self.severity is Severity.UNKNOWN and not self.reason:
            raise ValueError(f"{self.check} is unknown and says no reason")
        if self.severity in {Severity.WARNING, Severity.ERROR} and not (self.why and self.fix):
            raise ValueError(f"{self.check} is {self.severity} and lacks why it matters or what to do")


class GpuCapabilities(Record, frozen=True, kw_only=True):
    """What the driver tells of one GPU, reading by reading."""

    gpu: Annotated[int, Meta(ge=0, description="NVML's index, in the order of the PCI bus.")]
    uuid: str
    readings: tuple[Reading, ...]


class Diagnosis(Record, frozen=True, kw_only=True):
    """One run of `loadtune doctor`."""

    schema_version: int = DIAGNOSIS_SCHEMA_VERSION
    kind: Annotated[Literal["diagnosis"], Meta(description="Tells this file from a report, which has no kind.")] = (
        "diagnosis"
    )
    loadtune_version: str
    created: Annotated[str, Meta(description="ISO 8601 with offset.")]
    dataset: Annotated[str | None, Meta(description="--dataset as given; None: storage was not looked at.")] = None
    has_cuda_checks: Annotated[bool, Meta(description="Asked for with --gpu: CUDA itself was tried.")] = False
    environment: Environment
    lines: tuple[Line, ...]
    capabilities: tuple[GpuCapabilities, ...] = ()
    seconds_spent: float = 0.0

    @property
    def severity(self) -> Severity:
        """The worst of the lines. What is unknown is not taken to be wrong."""
        return max((line.severity for line in self.lines), key=RANKS.index, default=Severity.OK)
