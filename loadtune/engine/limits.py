"""When must a trial be ended from outside? Memory near the limit, no sign of life, or no time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtune.engine.failures import MEMORY_HINT
from loadtune.monitor.sampler import Sampler
from loadtune.records.measurement import Cause, Failure, TrialState

SILENT_AT_DEADLINE_S = 10.0
"""A trial that said nothing for so long when its time is up is stuck; one that spoke since is slow."""
REREAD_GROWTH_RATIO = 1.02
"""Growth of the resident size after which the proportional one is read again: it costs 15 ms of CPU a process."""
HANG_HINT = "a worker may wait for ever; give your DataLoader a timeout= to see where"
DEADLINE_HINT = "give it a longer --budget, or a smaller --batch-size"


@dataclass(slots=True)
class MemoryWatch:
    """Compares a trial's memory with its limit.

    Resident sizes count a page that forked workers share once a process, so a crossing is confirmed by the
    proportional size, and again whenever the resident one has grown since.
    """

    sampler: Sampler
    end_bytes: int
    _confirmed_at: int = field(default=0, init=False)

    def excess(self) -> int | None:
        """Return the trees' memory where it is past the limit; None below it."""
        used = self.sampler.memory_bytes
        if used is None or used <= max(self.end_bytes, int(REREAD_GROWTH_RATIO * self._confirmed_at)):
            return None
        self._confirmed_at = used
        shared_out = self.sampler.read_pss()
        used = used if shared_out is None else shared_out
        return used if used > self.end_bytes else None


def describe_excess(used: int, log_tail: str) -> tuple[TrialState, Failure]:
    """Return how a trial ends that comes too near the memory limit."""
    told = f"ended at {used / 2**30:.1f} GiB: with what others hold, that is too near the memory limit"
    failure = Failure(cause=Cause.HOST_MEMORY, message=told, hint=MEMORY_HINT, log_tail=log_tail)
    return TrialState.OUT_OF_MEMORY, failure


def judge_silence(
    *,
    requested_s: float,
    last_s: float,
    phase: str,
    silence_s: float,
    deadline_s: float,
    log_tail: Callable[[], str],
) -> tuple[TrialState, Failure] | None:
    """Return why a trial must be ended now for want of an answer, or None.

    Args:
        requested_s: When it was asked for, on time.monotonic() as all times here.
        last_s: When it was last heard of.
        phase: The last mark it passed, in words.
        silence_s: Longest silence.
        deadline_s: When it is ended in any case.
        log_tail: Returns what it printed last.
    """
    now_s = time.monotonic()
    silent_s = now_s - last_s
    is_stuck = silent_s > silence_s or (now_s > deadline_s and silent_s > SILENT_AT_DEADLINE_S)
    if is_stuck:
        told = f"nothing was heard for {silent_s:.0f} s {phase}"
        return TrialState.TIMED_OUT, Failure(cause=Cause.HANG, message=told, hint=HANG_HINT, log_tail=log_tail())
    if now_s > deadline_s:
        told = f"no result after {now_s - requested_s:.0f} s, {phase}"
        failure = Failure(cause=Cause.DEADLINE, message=told, hint=DEADLINE_HINT, log_tail=log_tail())
        return TrialState.TIMED_OUT, failure
    return None
