"""How far may the batch grow, by the gradient noise scale that was measured in training?

A rule like those of `rules`: a case in, a finding or None out.
"""

from loadtune.advice.case import Case
from loadtune.records.measurement import Cause
from loadtune.records.report import Evidence, Finding
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import BatchGrowth, NoiseScaleEstimate
from loadtune.schedule.rescale import rescale_learning_rate
from loadtune.schedule.rules import samples_ratio

NOISE_SCALE_SOURCE = "McCandlish et al. 2018, arXiv 1812.06162: the gradient noise scale"
LOWER_BOUND = "The network was not trained far: its noise scale is a lower bound only, and grows as the loss falls."


def noise_scale(case: Case) -> Finding | None:
    """What the gradient noise scale says about larger batches; nothing where none was given."""
    told, base = case.noise_scale, _base(case)
    if told is None:
        return None
    growth = told.growth(base)
    if growth is None:
        return Finding(
            rule="noise-scale",
            severity="info",
            title="How far the batch may grow is not known",
            detail=f"The noise scale could not be told: {told.reason}.",
            action="Measure it over more steps, or with more micro-batches a step.",
        )
    is_open = told.is_at_least
    if growth.batch_size > base:
        title = f"The batch may grow to {'at least ' if is_open else ''}{growth.batch_size} samples a step"
    else:
        title = f"A step of {base} samples is at or beyond the noise scale{' measured so far' if is_open else ''}"
    ranks = f"Samples of all {case.world_size} ranks count. " if case.world_size > 1 else ""
    return Finding(
        rule="noise-scale",
        severity="info",
        title=title,
        detail=" ".join(filter(None, (f"{_describe(told)} {ranks}{_cost(case, told, growth, base)}", *_notes(told)))),
        action="Measure it again when training is far on." if told.is_lower_bound else None,
        evidence=_evidence(told, growth, base),
    )


def pays_from(case: Case, batch_size: int) -> float | None:
    """Return how many times the samples a second another batch must do to train no slower; None: not known.

    Args:
        case: The evidence.
        batch_size: Samples of one rank behind one optimizer step, at the other batch.
    """
    told = case.noise_scale
    scale = None if told is None else told.scale
    return None if scale is None else samples_ratio(_base(case), batch_size * case.world_size, scale)


def is_exhausted(case: Case) -> bool:
    """Tell whether the batch is known to be at or beyond the noise scale already; a lower bound does not know."""
    told = case.noise_scale
    growth = None if told is None or told.is_at_least else told.growth(_base(case))
    return growth is not None and growth.batch_size <= _base(case)


def ask_for_twice(case: Case, settings: Settings) -> str | None:
    """Return what to ask for where a step's micro-batch should be twice as large; None where a larger batch is no gain.

    None as well where it was seen not to fit. With an even number of accumulation steps the optimizer's batch, and so
    its rate, can stay as it is.

    Args:
        case: The optimizer, the noise scale, the ranks that train, and the trials that failed.
        settings: Of the micro-batch that is too small.
    """
    if _outgrown(case, settings) is not None:
        return None
    asked = f"Try batch_size={2 * settings.batch_size}"
    if settings.accumulation_steps % 2 == 0:
        return f"{asked} with accumulation_steps={settings.accumulation_steps // 2} and the same learning rate"
    if is_exhausted(case):
        return None
    own, twice = settings.effective_batch_size, 2 * settings.effective_batch_size
    told = rescale_learning_rate(case.optimizer, own, twice, noise_scale=case.noise_scale, world_size=case.world_size)
    least = pays_from(case, twice)
    condition = "" if least is None else f"; by the noise scale it pays from {least:.2f} times the samples/s on"
    return f"{asked} with {told.factor:.3g} times the learning rate{condition}"


def instead_of_twice(case: Case, settings: Settings) -> str:
    """Return what is left to do about fixed costs where the batch must not grow, and why it must not."""
    size = _outgrown(case, settings)
    why = "by the noise scale a larger batch is no gain"
    if size is not None:
        why = f"batch_size={size} ran out of the device's memory here"
    return f"Lower the fixed cost, as torch.compile(mode='reduce-overhead') does: {why}."


def _outgrown(case: Case, settings: Settings) -> int | None:
    """Return the smallest batch up to twice this one that the device's memory did not hold; None: none was seen."""
    failed = [
        each.settings.batch_size
        for each in case.others
        if each.failure is not None and each.failure.cause is Cause.DEVICE_MEMORY
    ]
    return min((size for size in failed if settings.batch_size < size <= 2 * settings.batch_size), default=None)


def _base(case: Case) -> int:
    trial = case.baseline or case.chosen
    return trial.settings.effective_batch_size * case.world_size


def _describe(told: NoiseScaleEstimate) -> str:
    figure = "not told" if told.samples is None else f"{told.samples:.3g} samples"
    if told.low is None and told.high is None:
        return f"Noise scale {figure}, no interval."
    low, high = ("no bound" if end is None else f"{end:.3g}" for end in (told.low, told.high))
    return f"Noise scale {figure} [{low} {high}]."


def _cost(case: Case, told: NoiseScaleEstimate, growth: BatchGrowth, base: int) -> str:
    """Say what the largest batch costs in samples, and what becomes of the rate there."""
    if growth.batch_size <= base:
        # The sentence would forbid what a lower bound cannot forbid.
        return "" if told.is_at_least else growth.detail
    there = rescale_learning_rate(case.optimizer, base, growth.batch_size, noise_scale=told)
    ratio = f"{growth.samples_ratio:.2f} times"
    cost = f"{growth.detail} It pays only if samples/s grow by more than {ratio}."
    if told.is_at_least:
        steps = f"{growth.steps_ratio:.2f} times the steps"
        cost = f"There the same loss takes at most {ratio} the samples and {steps}: it pays from that gain in rate on."
    return f"{cost} The learning rate is multiplied by {there.factor:.3g} there: {there.rule}."


def _notes(told: NoiseScaleEstimate) -> tuple[str, ...]:
    if not told.is_lower_bound:
        return told.notes
    return told.notes if any("lower bound" in note for note in told.notes) else (*told.notes, LOWER_BOUND)


def _evidence(told: NoiseScaleEstimate, growth: BatchGrowth, base: int) -> tuple[Evidence, ...]:
    figures = {"noise_scale": told.samples, "noise_scale_low": told.low, "noise_scale_high": told.high}
    return (
        *(
            Evidence(name=name, value=value, unit="samples", source=NOISE_SCALE_SOURCE)
            for name, value in figures.items()
            if value is not None
        ),
        Evidence(name="batch_size_now", value=base, unit="samples"),
        Evidence(name="batch_size_max", value=growth.batch_size, unit="samples"),
        Evidence(name="samples_ratio", value=growth.samples_ratio),
        Evidence(name="steps_ratio", value=growth.steps_ratio),
    )
