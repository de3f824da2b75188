"""One verification, from request to record: prepare as a probe does, run one trial, then check claim after claim."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from loadtune import options as asked
from loadtune.advice.search import Leg
from loadtune.engine.launcher import Launcher
from loadtune.errors import LoadtuneError, NothingMeasuredError
from loadtune.monitor.environment import refuse_other_distribution, refuse_other_platforms
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.readings import find_readings
from loadtune.options import ProbeOptions
from loadtune.preparing import Probe, Status, prepare
from loadtune.probing import refuse_several_ranks
from loadtune.records.report import Report
from loadtune.records.verification import Check, Figure, Outcome, Verification
from loadtune.render.progress import Progress
from loadtune.verifying.bench import MEASURE_S, STEAL_MAX_RATIO, Bench, deadline_after_s, make_spec
from loadtune.verifying.comparisons import check_plain_loop, check_same, check_sampler
from loadtune.verifying.driver import check_clocks, check_sampling
from loadtune.verifying.mishaps import check_device_memory, check_host_memory, check_killed_worker
from loadtune.verifying.replaying import check_replay
from loadtune.version import __version__

WHOLE_S, QUICK_S = 300.0, 60.0
"""Longest verification, and the longest with --quick: promised, so that it is run at all."""
CUDA_WHOLE_S, CUDA_QUICK_S = 480.0, 240.0
"""The same on a CUDA device, where each start pays for context and libraries, and more is checked."""
RESERVE_S = 3.0
"""Kept for ending processes and writing."""
CPU_CROP_PX = 65
"""Default crop on a CPU: steps of a quarter of a second. With longer ones the minutes hold too few to tell 3 %."""

Compare = Callable[[Bench, float], list[Check]]


class VerificationSink(Protocol):
    """Where verifications go as they grow."""

    def save(self, saved: Verification) -> None:
        """Keep an unfinished one."""

    def finish(self, saved: Verification) -> None:
        """Keep the finished one."""


class _NoReport:
    """Takes the reports of a probe that is only prepared."""

    def save(self, report: Report) -> None:
        """Drop it."""

    def finish(self, report: Report) -> None:
        """Drop it."""


@dataclass(slots=True)
class _Ledger:
    """What was checked so far."""

    run: Probe
    is_quick: bool
    checks: list[Check]
    readings_of: Bench | None = None

    def verification(self, status: Status) -> Verification:
        """Return it as a record."""
        run, bench = self.run, self.readings_of
        trace = None if bench is None else bench.trial.trace
        uuid = None if bench is None or bench.trial.measurement is None else bench.trial.measurement.device_uuid
        readings = (
            () if bench is None else find_readings(run.plan.device.kind, run.plan.limits, bench.nvml, uuid, trace)
        )
        return Verification(
            loadtune_version=__version__,
            created=run.created,
            status=status,
            request=run.request,
            environment=run.environment,
            dataset=run.dataset,
            is_quick=self.is_quick,
            settings=run.plan.baseline,
            checks=tuple(self.checks),
            readings=readings,
            warnings=run.warnings,
            seconds_spent=run.spent_s(),
            start_up_s=run.start_up_s,
        )


def verify(
    options: ProbeOptions,
    sink: VerificationSink,
    progress: Progress,
    *,
    is_quick: bool,
    has_budget: bool = False,
) -> Verification:
    """Check what loadtune claims, on this machine, device and data; what was checked is saved after every claim.

    Args:
        options: As for a probe, whose baseline is the setting under test.
        sink: Keeps the verification.
        progress: Tells how far it is.
        is_quick: One minute instead of five, or four instead of eight on a CUDA device.
        has_budget: Whether the budget of the options is what was asked for, and not set here.

    Raises:
        LoadtuneError: See `errors`. NothingMeasuredError where not one trial of the setting completes.
    """
    refuse_other_platforms()
    refuse_other_distribution()
    refuse_several_ranks(1)
    asked_s = options.budget_s if has_budget else QUICK_S if is_quick else WHOLE_S
    options = replace(options, budget_s=asked_s, cpu_crop_px=CPU_CROP_PX)
    asked.check(options)
    began_s = time.monotonic() if options.began_s is None else options.began_s
    with ExitStack() as stack:
        stack.callback(progress.stop)
        launcher = stack.enter_context(Launcher())
        nvml = Nvml.open()
        stack.callback(nvml.close)
        progress.start("starting: importing torch, reading the machine and the data set")
        run = prepare(options, launcher, nvml, _NoReport(), progress, began_s, stack)
        if run.plan.device.kind == "cuda" and not has_budget:
            run.options = replace(run.options, budget_s=CUDA_QUICK_S if is_quick else CUDA_WHOLE_S)
            run.request = msgspec.structs.replace(run.request, budget_s=run.options.budget_s)
        ledger = _Ledger(run, is_quick, [])
        status: Status = "complete"
        try:
            for _ in _work(ledger, launcher, nvml):
                sink.save(ledger.verification("running"))
        except KeyboardInterrupt:
            status = "interrupted"
        except LoadtuneError:
            sink.finish(ledger.verification("failed"))
            raise
        found = ledger.verification(status)
    sink.finish(found)
    return found


def _work(ledger: _Ledger, launcher: Launcher, nvml: Nvml) -> Iterator[None]:
    """Check claim after claim, yielding after each."""
    run = ledger.run
    run.progress.phase("one trial, to learn how long the checks take")
    spec = make_spec(run, Leg(settings=run.plan.baseline, role="baseline", measure_s=MEASURE_S))
    leg = Leg(settings=run.plan.baseline, role="baseline")
    trial = run.runner.run(spec, leg, 1, time.monotonic() + deadline_after_s(spec))
    if trial.failure is not None:
        raise NothingMeasuredError(f"the setting under test failed: {trial.failure.message}", "try another --baseline")
    run.trials.append(trial)
    bench = Bench(run=run, launcher=launcher, nvml=nvml, trial=trial, is_quick=ledger.is_quick)
    ledger.readings_of = bench
    for mishap in (check_killed_worker, check_host_memory, check_device_memory):
        run.progress.phase(f"a mishap on purpose: {mishap.__name__.removeprefix('check_').replace('_', ' ')}")
        found = mishap(bench)
        ledger.checks += [] if found is None else [found]
        yield
    ledger.checks += [found] if (found := check_sampling(bench)) is not None else []
    compares = QUICK_COMPARES if ledger.is_quick else WHOLE_COMPARES
    if bench.is_on_cuda:
        compares = CUDA_COMPARES
    for place, (compare, share) in enumerate(compares):
        left_s = run.options.budget_s - RESERVE_S - run.spent_s()
        shares = sum(each for _, each in compares[place:])
        run.progress.phase(compare.__name__.removeprefix("check_").replace("_", " "))
        ledger.checks += compare(bench, left_s * share / shares)
        yield
    ledger.checks += [found] if (found := check_clocks(bench)) is not None else []
    ledger.checks.append(check_quiet(bench, ledger.checks))


def check_quiet(bench: Bench, checks: Sequence[Check]) -> Check:
    """Say what others took of the processors while the duels of these checks ran."""
    limit = bench.arena.foreign_limit_cores
    foreign = max(bench.foreign_cores, default=None)
    steal = max(bench.steal_ratios, default=None)
    figures = (
        Figure(quantity="foreign cores, the worst check", value=foreign, unit="cores", reason=_why(foreign)),
        Figure(quantity="stolen CPU time, the worst check", value=steal, unit="ratio", reason=_why(steal)),
    )
    words = [
        "foreign load not read" if foreign is None else f"others used {foreign:.2f} cores in the worst check",
        "steal not read" if steal is None else f"the hypervisor took {100 * steal:.1f} % in the worst check",
    ]
    problems = []
    if foreign is None and not any(check.duels for check in checks):
        problems.append("no duel was held, and others are looked for in duels")
    elif foreign is None or steal is None:
        problems.append("it could not be read")
    if foreign is not None and foreign > limit:
        problems.append("others were busy: what is narrow enough to be told was told all the same, the rest was not")
    if steal is not None and steal > STEAL_MAX_RATIO:
        problems.append("the hypervisor took processor time: a core is not the core it seems")
    return Check(
        id="quiet-machine",
        claim="The machine was left to the measuring.",
        target=f"others use at most {limit:.2f} cores, the hypervisor at most {100 * STEAL_MAX_RATIO:g} %",
        measured=", ".join(words),
        outcome=Outcome.UNKNOWN if problems else Outcome.HOLDS,
        reason="; ".join(problems) or None,
        figures=figures,
        foreign_cores=foreign,
        steal_ratio=steal,
    )


def _why(value: float | None) -> str | None:
    return None if value is not None else "not read"


WHOLE_COMPARES: tuple[tuple[Compare, float], ...] = (
    (check_plain_loop, 0.35),
    (check_same, 0.25),
    (check_sampler, 0.2),
    (check_replay, 0.2),
)
"""Checks by duels, and the share of the time that is left for them."""
CUDA_COMPARES: tuple[tuple[Compare, float], ...] = (
    (check_plain_loop, 0.25),
    (check_same, 0.19),
    (check_sampler, 0.19),
    (check_replay, 0.37),
)
"""On a CUDA device the replay is held against it in six cells, each of two trials."""
QUICK_COMPARES: tuple[tuple[Compare, float], ...] = ((check_plain_loop, 0.5), (check_same, 0.5))
"""The same in a minute: the two on which the others rest."""
