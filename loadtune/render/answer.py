"""What does a report say, in sentences? The rows, warnings and next step that terminal and page share."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from loadtune.records.measurement import Duel, TrialResult, TrialState
from loadtune.records.report import (
    Alternative,
    Cost,
    DatasetSummary,
    Finding,
    LearningRate,
    Recommendation,
    Report,
    Request,
    Verdict,
)
from loadtune.records.settings import Settings
from loadtune.render.annealing import compose_progress
from loadtune.render.words import (
    NOT_MEASURED,
    STATE_WORDS,
    format_bytes,
    format_change,
    format_count,
    format_device,
    format_interval,
    format_number,
    format_percent,
    format_rate,
    format_ratio,
    format_seconds,
    format_settings,
    format_threads_line,
    format_trial,
    format_worth,
    measured_threads,
    one_line,
    visible,
)
from loadtune.stats import SAME_RATIO

CPU_HEADLINE = "this CPU: advice for training here. For a GPU: --step-time or replay"
"""Fits one line of 80 columns with its label, since it must be seen first."""


class Row(NamedTuple):
    """One labelled answer: `lines` are sentences, the first the most important."""

    label: str
    lines: tuple[str, ...]


class Notice(NamedTuple):
    """A warning and what to do about it."""

    what: str
    hint: str


def compose_device(report: Report) -> Row:
    """Say on what the training ran, before anything else: replay and a CPU are not the reader's GPU."""
    if report.request.device.kind == "cpu":
        return Row("device", (CPU_HEADLINE, _compose_loader_rates(report), *compose_device_notes(report.request)))
    return Row("device", (format_device(report.request.device), *compose_device_notes(report.request)))


def compose_device_notes(request: Request) -> tuple[str, ...]:
    """Say what of a usual training was missing: the device, or the other ranks."""
    notes = []
    if request.device.kind == "replay":
        notes.append("Nothing was trained: the loader was real, the device's step times came from this profile.")
    if request.workload.purpose == "evaluate":
        notes.append("Validation: forward pass and loss of each batch, without gradients.")
    if request.ranks_per_node > 1:
        ranks = request.ranks_per_node
        notes.append(f"One rank was measured alone, with 1/{ranks} of this machine's cores and memory.")
    return tuple(notes)


def _compose_loader_rates(report: Report) -> str:
    rates = sorted(report.ceilings.loader_rates_per_s.items(), key=lambda item: int(item[0]))
    if not rates:
        return f"The loader's own rate, which holds for any device: {NOT_MEASURED}."
    listed = ", ".join(f"{workers}: {format_number(rate)}" for workers, rate in rates)
    return f"The loader's own rate, which holds for any device, by num_workers: {listed} samples/s."


def compose_dataset(dataset: DatasetSummary) -> Row:
    """Say what was recognised, how much of it there is, and what was left out and why."""
    count = "number of samples unknown"
    if dataset.sample_count is not None:
        count = f"{format_count(dataset.sample_count)} samples"
    split = f", split {one_line(dataset.split)}" if dataset.split else ""
    lines = [f"{one_line(dataset.described).rstrip('.')}; {count}{split}"]
    for left_out in dataset.left_out:
        examples = ", ".join(one_line(example) for example in left_out.examples)
        such_as = f" (such as {examples})" if examples else ""
        lines.append(f"left out: {format_count(left_out.count)}, {one_line(left_out.reason)}{such_as}")
    lines += [f"fixed by the data set: {one_line(axis)}" for axis in dataset.fixed_axes]
    return Row("data", tuple(lines))


def compose_headline(report: Report) -> str:
    """Return the verdict as one sentence."""
    recommendation = report.recommendation
    if recommendation is None:
        return "No recommendation: " + _why_there_is_none(report)
    if recommendation.verdict is Verdict.FASTER:
        return f"Use {format_settings(recommendation.settings)}"
    if recommendation.baseline.failure is not None:
        return f"Use {format_settings(recommendation.settings)}: yours does not run here"
    if recommendation.verdict is Verdict.INCONCLUSIVE:
        return "No setting is shown to be faster than yours"
    if recommendation.settings == recommendation.baseline.settings:
        return "Keep your setting"
    return f"{format_settings(recommendation.settings)} is as fast as yours"


def _why_there_is_none(report: Report) -> str:
    if report.status == "interrupted":
        return "the probe was interrupted before it could compare settings"
    if report.status == "running":
        return "the probe was still running when this was written"
    return "no setting could be compared with yours"


def compose_answer(report: Report) -> tuple[Row, ...]:
    """Return the answer in its fixed order: now, use, ceiling, costs, took."""
    recommendation = report.recommendation
    if recommendation is None:
        return (_compose_best_so_far(report), Row("took", tuple(_compose_time(report))))
    return (
        _compose_now(recommendation, report.trials),
        _compose_use(recommendation, report.trials),
        _compose_ceiling(report),
        Row("costs", _compose_costs(recommendation.cost)),
        Row("took", (*_compose_time(report), *_compose_saving(recommendation))),
    )


def _compose_best_so_far(report: Report) -> Row:
    best = fastest_trial(report)
    if best is None:
        return Row("so far", ("no trial of a setting completed",))
    rate = format_rate(best.rate_per_s)
    return Row("so far", (f"{format_trial(best)}: {rate}, from single trials: a lead, not an answer",))


def is_of_setting(report: Report, trial: TrialResult) -> bool:
    """Say whether a trial trained with a setting that is compared: one of the search, or the chosen variant."""
    told = report.recommendation
    is_chosen = trial.role == "variant" and told is not None and trial.settings == told.settings
    return trial.role in {"grid", "baseline"} or is_chosen


def baseline_settings(report: Report) -> Settings:
    """Return what every comparison of the report is over."""
    recommendation = report.recommendation
    return report.request.baseline if recommendation is None else recommendation.baseline.settings


def fastest_trial(report: Report) -> TrialResult | None:
    """Return the fastest complete trial that trained with a loader, or None."""
    complete = [
        trial for trial in report.trials if trial.state is TrialState.COMPLETE and trial.role in {"grid", "baseline"}
    ]
    return max(complete, key=lambda trial: trial.rate_per_s or 0.0, default=None)


def _compose_now(recommendation: Recommendation, trials: Sequence[TrialResult]) -> Row:
    baseline = recommendation.baseline
    rate = format_rate(baseline.rate_per_s)
    lines = [f"{format_settings(baseline.settings)}: {rate} ({one_line(baseline.origin)})"]
    if baseline.failure is not None:
        lines.append(f"it does not run here: {one_line(baseline.failure)}")
    threads = measured_threads(baseline.settings, trials)
    if threads is not None and recommendation.settings != baseline.settings:
        lines.append(_tell_threads(threads))
    return Row("now", tuple(lines))


def _tell_threads(threads: int) -> str:
    return f"with {threads} torch thread{'' if threads == 1 else 's'} in the main process"


def _compose_use(recommendation: Recommendation, trials: Sequence[TrialResult]) -> Row:
    setting = f"{format_settings(recommendation.settings)}: {format_rate(recommendation.rate_per_s)}"
    lines = [setting, compose_speedup(recommendation)]
    if is_undecided(recommendation):
        lines.insert(0, "yours, until a longer run decides; the best candidate so far:")
    if recommendation.learning_rate.factor != 1:
        lines.append(compose_learning_rate(recommendation.learning_rate))
    if recommendation.epoch_rate_per_s is not None:
        rate = format_rate(recommendation.epoch_rate_per_s)
        lines.append(f"over a whole epoch, its boundary included: {rate}")
    threads = measured_threads(recommendation.settings, trials)
    if threads is not None:
        lines.append(f"{_tell_threads(threads)}: {format_threads_line(threads)}")
    return Row("use", tuple(lines))


def is_undecided(recommendation: Recommendation) -> bool:
    """Tell a candidate that was not shown to be faster from a setting to use: what runs beats what does not."""
    baseline = recommendation.baseline
    can_stay = recommendation.settings != baseline.settings and baseline.failure is None
    return recommendation.verdict is Verdict.INCONCLUSIVE and can_stay


def choice_word(recommendation: Recommendation | None) -> str:
    """Return how charts and tables mark the recommended setting."""
    return "candidate" if recommendation is not None and is_undecided(recommendation) else "use"


def compose_speedup(recommendation: Recommendation) -> str:
    """Say how many times faster, with the interval and the baseline that it is over."""
    speedup = recommendation.speedup
    baseline = format_settings(recommendation.baseline.settings)
    is_same = recommendation.settings == recommendation.baseline.settings
    if is_same and not speedup.pairs:
        return f"what you run already: {one_line(speedup.reason or 'no other setting was chosen')}"
    if speedup.estimate is None:
        return f"speed-up {NOT_MEASURED}: {one_line(speedup.reason or 'no duel was held')}"
    interval = format_interval(speedup.estimate, speedup.low, speedup.high)
    doubt = f" ({one_line(speedup.reason)})" if speedup.reason else ""
    if recommendation.verdict is Verdict.FASTER:
        over = "" if speedup.basis == "rate" else " over whole epochs, an estimate from a duel over short ones"
        return f"{interval} the rate of {baseline}{over}{doubt}"
    if recommendation.verdict is Verdict.SAME:
        return f"as fast as yours (within {format_percent(SAME_RATIO)}): {interval} of {baseline}{doubt}"
    return f"{interval} of {baseline}: too uncertain to call{doubt}"


def compose_learning_rate(learning_rate: LearningRate) -> str:
    """Say what the batch size asks of the learning rate."""
    rate = "" if learning_rate.rate is None else f", {format_number(learning_rate.rate)}"
    return f"learning rate times {format_number(learning_rate.factor)}{rate} ({one_line(learning_rate.rule)})"


def _compose_ceiling(report: Report) -> Row:
    ceilings = report.ceilings
    if ceilings.device_rate_per_s is None:
        reason = f": {one_line(ceilings.device_rate_reason)}" if ceilings.device_rate_reason else ""
        return Row("ceiling", (f"the device alone: {NOT_MEASURED}{reason}",))
    reached = ""
    if ceilings.reached_ratio is not None:
        reached = f"; this setting reaches {format_percent(ceilings.reached_ratio)} of it"
    return Row("ceiling", (f"the device alone does {format_rate(ceilings.device_rate_per_s)}{reached}",))


def _compose_costs(cost: Cost) -> tuple[str, ...]:
    memory, device_memory, cores = cost.memory_bytes, cost.device_memory_bytes, cost.cores
    parts = (
        ("RAM", None if memory is None else format_change(format_bytes(memory), memory)),
        ("CPU", None if cores is None else format_change(f"{format_number(cores)} cores", cores)),
        (
            "VRAM",
            None if device_memory is None else format_change(format_bytes(device_memory), device_memory),
        ),
    )
    line = ", ".join(f"{name} {text or NOT_MEASURED}" for name, text in parts)
    return (f"against the baseline: {line}", *(one_line(reason) for reason in cost.unavailable))


def _compose_time(report: Report) -> list[str]:
    states = Counter(trial.state for trial in report.trials)
    ends = ", ".join(f"{count} {STATE_WORDS[state]}" for state, count in states.most_common())
    budget = format_seconds(report.request.budget_s)
    return [f"{format_seconds(report.seconds_spent)} of a budget of {budget}; trials: {ends or 'none'}"]


def _compose_saving(recommendation: Recommendation) -> list[str]:
    lines = []
    hours, basis = recommendation.hours_saved, recommendation.hours_saved_basis
    if recommendation.verdict is Verdict.FASTER and hours is not None:
        over = f" over {one_line(basis)}" if basis else ""
        lines.append(f"saves {format_seconds(3600 * hours)}{over}")
    smallest = recommendation.speedup.smallest_detectable_ratio
    if smallest is not None:
        difference = format_percent(abs(smallest - 1))
        lines.append(f"the smallest difference this run could have told: {difference}")
    return lines


def compose_why(report: Report, *, with_findings: bool = True) -> tuple[str, ...]:
    """Return the reasons of the selection, what ties with it, the duel's notes, and the findings with their numbers."""
    lines: list[str] = []
    recommendation = report.recommendation
    if recommendation is not None:
        lines += [one_line(reason) for reason in recommendation.reasons]
        if recommendation.ties:
            tied = "; ".join(format_settings(settings) for settings in recommendation.ties)
            lines.append(f"As fast within the tie rule, and dearer: {tied}.")
    duel = deciding_duel(report)
    if duel is not None:  # how the claim was come by, where that was not the usual way
        lines += [one_line(note) for note in duel.notes]
    for finding in report.findings if with_findings else ():
        if finding.severity != "warning":
            lines.append(_tell(finding, one_line(finding.action or "")))
    return tuple(lines)


def _tell(finding: Finding, action: str = "") -> str:
    """Return a finding in words, with what it is worth and the name that `loadtune explain` takes."""
    told = f"{one_line(finding.title).rstrip('.')}. {one_line(finding.detail)}{f' {action}' if action else ''}"
    return f"{told}{format_worth(finding.worth_per_s)} [{one_line(finding.rule)}]"


def deciding_duel(report: Report) -> Duel | None:
    """Return the last duel over the baseline; None without one. Others were held over variants of the choice.

    Nor does one over short epochs decide: it shows the epochs' ends, not the rates.
    """
    baseline, told = baseline_settings(report), report.recommendation
    held = [duel for duel in report.duels if duel.baseline == baseline and duel.epoch_batches is None]
    if told is not None and told.settings != baseline:
        held = [duel for duel in held if duel.contender == told.settings]
    return held[-1] if held else None


def compose_alternatives(report: Report) -> tuple[str, ...]:
    """Return the answers that change more than the loader."""
    recommendation = report.recommendation
    if recommendation is None:
        return ()
    over = "the chosen setting" if recommendation.baseline.rate_per_s is None else "your setting"
    return tuple(_compose_alternative(each, over) for each in recommendation.alternatives)


def _compose_alternative(alternative: Alternative, over: str) -> str:
    rate = format_rate(alternative.rate_per_s)
    ratio = f"{format_ratio(alternative.screening_ratio)} {over} by single trials, no interval"
    change = "the learning rate stays"
    if alternative.learning_rate.factor != 1:
        change = compose_learning_rate(alternative.learning_rate)
    note = f"; {one_line(alternative.note)}" if alternative.note else ""
    worth = "" if alternative.progress is None else f"; {compose_progress(alternative.progress)}"
    return f"{alternative.kind}: {format_settings(alternative.settings)}: {rate}, {ratio}{worth}; {change}{note}"


def compose_warnings(report: Report) -> tuple[Notice, ...]:
    """Return every warning of the probe, the machine, the data and the findings, each with its hint."""
    notices = [split_notice(text) for text in (*report.warnings, *report.environment.warnings)]
    dataset = report.dataset
    if dataset.bad_sample_count:
        listed = "; ".join(one_line(sample) for sample in dataset.bad_samples)
        plural = "sample was" if dataset.bad_sample_count == 1 else "samples were"
        notices.append(Notice(f"{format_count(dataset.bad_sample_count)} broken {plural} skipped", f"look at {listed}"))
    serious = [finding for finding in report.findings if finding.severity == "warning"]
    notices += [Notice(_tell(finding), one_line(finding.action or "")) for finding in serious]
    if report.recommendation is not None:
        texts = report.recommendation.learning_rate.warnings
        notices += [split_notice(text) for text in texts]
    return tuple(notices)


def split_notice(text: str) -> Notice:
    """Take the first line as what happened and the rest as the hint."""
    what, _, hint = visible(text).strip().partition("\n")
    return Notice(one_line(what), one_line(hint).removeprefix("hint: "))
