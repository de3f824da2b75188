"""How does a check say what it found? One line of the diagnosis, of each severity."""

from dataclasses import dataclass, replace

from loadtune.monitor.hazards import Hazard
from loadtune.records.diagnosis import Line, Severity, Topic
from loadtune.records.report import Evidence


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at."""

    check: str
    """Stable identifier."""
    topic: Topic
    title: str
    """In people's words."""
    gpu: int | None = None
    """Which GPU, by NVML's index."""

    def on(self, gpu: int) -> "Subject":
        """Return the same for one GPU."""
        return replace(self, gpu=gpu)

    def ok(self, found: str, *evidence: Evidence) -> Line:
        """Nothing to do."""
        return self._line(Severity.OK, found, None, None, evidence)

    def note(self, found: str, why: str, fix: str | None, *evidence: Evidence) -> Line:
        """Worth knowing; nothing is wrong."""
        return self._line(Severity.NOTE, found, why, fix, evidence)

    def warning(self, found: str, why: str, fix: str, *evidence: Evidence) -> Line:
        """It makes a training slower, or a measurement less true."""
        return self._line(Severity.WARNING, found, why, fix, evidence)

    def error(self, found: str, why: str, fix: str, *evidence: Evidence) -> Line:
        """A training will not run, or not on what it should run on."""
        return self._line(Severity.ERROR, found, why, fix, evidence)

    def unknown(self, reason: str) -> Line:
        """It could not be looked at."""
        return Line(
            check=self.check,
            topic=self.topic,
            gpu=self.gpu,
            severity=Severity.UNKNOWN,
            title=self.title,
            reason=reason,
        )

    def hazard(self, hazard: Hazard, *evidence: Evidence) -> Line:
        """What a report warns of as well."""
        return self.warning(hazard.found, hazard.why, hazard.fix, *evidence)

    def _line(
        self, severity: Severity, found: str, why: str | None, fix: str | None, evidence: tuple[Evidence, ...]
    ) -> Line:
        return Line(
            check=self.check,
            topic=self.topic,
            gpu=self.gpu,
            severity=severity,
            title=self.title,
            found=found,
            why=why,
            fix=fix,
            evidence=evidence,
        )
