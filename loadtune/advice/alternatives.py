"""What else could be used that changes more than the loader: a larger batch, or fewer accumulation steps?

A larger batch does more samples a second, and each of them teaches less. Where the gradient noise scale is known, a
batch is offered by its speed to the same loss, not by its samples a second.
"""

from collections.abc import Sequence

import msgspec

from loadtune.advice.screening import Screening
from loadtune.advice.terms import Choice, Terms
from loadtune.records.report import Alternative, AlternativeKind, LearningRate, TrainingProgress
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import compute_progress
from loadtune.schedule.pasting import Tuned, add_code
from loadtune.schedule.rescale import rescale_learning_rate

ALTERNATIVE_GAIN_RATIO = 1.03
"""A larger batch changes the training; it is offered only where it gains more than the tie rule forgives."""


def find_alternatives(
    screening: Screening, choice: Choice, terms: Terms
) -> tuple[tuple[Alternative, ...], tuple[str, ...]]:
    """Return the other answers, and why a batch that is faster in samples a second is none.

    Args:
        screening: The trials.
        choice: The answer that they are other than.
        terms: What they are stated in.
    """
    own = choice.settings.batch_size
    larger = [each for each in screening.rates if each.batch_size > own]
    fastest = _fastest(larger, screening, choice, terms)
    taken, reasons = fastest, []
    if fastest is not None and _is_known(terms):
        taken = max(larger, key=lambda each: (_gain(each, screening, choice, terms), -each.batch_size))
        if _gain(taken, screening, choice, terms) <= ALTERNATIVE_GAIN_RATIO:
            taken = None
        if taken is None or taken.batch_size < fastest.batch_size:
            reasons.append(_explain(fastest, screening, choice, terms))
    found = [] if taken is None else [_alternative("larger batch", taken, screening, choice, terms)]
    effective = terms.baseline.effective_batch_size
    if terms.accumulate:
        dividing = [each for each in larger if effective % each.batch_size == 0]
        measured = _fastest(dividing, screening, choice, terms)
        if measured is not None:
            found.append(_alternative("accumulate", measured, screening, choice, terms))
    return tuple(found), tuple(reasons)


def state_learning_rate(settings: Settings, terms: Terms) -> LearningRate:
    """Return what the settings' batch asks of the learning rate, with the code for it where it is another batch."""
    base = terms.base_batch_size or terms.baseline.effective_batch_size
    if not terms.is_training:
        base = settings.effective_batch_size
    told = rescale_learning_rate(
        terms.optimizer,
        base,
        settings.effective_batch_size,
        terms.learning_rate,
        noise_scale=terms.noise_scale,
        world_size=terms.world_size,
    )
    is_own = terms.base_batch_size is None
    tuned = Tuned(
        optimizer=terms.optimizer,
        handed=terms.handed_optimizer,
        learning_rate=terms.learning_rate,
        schedule=terms.schedule,
        batch_size=terms.baseline.batch_size if is_own else base,
        accumulation_steps=terms.baseline.accumulation_steps if is_own else 1,
        world_size=terms.world_size,
        sample_count=terms.epoch_samples,
        drop_last=terms.drop_last,
        epochs=terms.epochs,
        noise_scale=terms.noise_scale,
    )
    return add_code(told, tuned, settings.batch_size, settings.accumulation_steps)


def _fastest(candidates: Sequence[Settings], screening: Screening, choice: Choice, terms: Terms) -> Settings | None:
    """Return the smallest batch tied with the best of the candidates, if it gains enough over the choice."""
    if not candidates:
        return None
    tied = screening.tied(candidates, screening.best(candidates, terms.baseline))
    measured = min(tied, key=lambda each: (each.batch_size, *screening.cost_order(each)))
    return measured if screening.compare(measured, choice.settings)[0] > ALTERNATIVE_GAIN_RATIO else None


def _alternative(
    kind: AlternativeKind, measured: Settings, screening: Screening, choice: Choice, terms: Terms
) -> Alternative:
    settings, note = measured, ""
    if kind == "accumulate":
        steps = terms.baseline.effective_batch_size // measured.batch_size
        settings = msgspec.structs.replace(measured, accumulation_steps=steps)
        note = f"Measured with accumulation_steps={measured.accumulation_steps}."
    over = terms.baseline if terms.baseline in screening.rates else choice.settings
    ratio = screening.compare(measured, over)[0]
    return Alternative(
        kind=kind,
        settings=settings,
        rate_per_s=screening.rate_per_s(measured),
        screening_ratio=ratio,
        learning_rate=state_learning_rate(settings, terms),
        note=note,
        progress=None
        if kind == "accumulate"
        else _progress(settings, screening.compare(measured, choice.settings)[0], terms),
    )


def _is_known(terms: Terms) -> bool:
    """Tell whether the noise scale decides: a lower bound cannot speak against a batch, since it grows in training."""
    return terms.is_training and terms.noise_scale is not None and not terms.noise_scale.is_at_least


def _progress(settings: Settings, rate_ratio: float, terms: Terms) -> TrainingProgress | None:
    """Return what so many times the samples a second are worth."""
    if terms.noise_scale is None or not terms.is_training:
        return None
    base, new = (each.effective_batch_size * terms.world_size for each in (terms.baseline, settings))
    return compute_progress(terms.noise_scale, base, new, rate_ratio)


def _gain(settings: Settings, screening: Screening, choice: Choice, terms: Terms) -> float:
    """Return the speed to the same loss over the choice, which has the user's own batch."""
    ratio = screening.compare(settings, choice.settings)[0]
    progress = _progress(settings, ratio, terms)
    return ratio if progress is None else progress.ratio


def _explain(settings: Settings, screening: Screening, choice: Choice, terms: Terms) -> str:
    """Say why the batch with the most samples a second is not the one to take."""
    ratio = screening.compare(settings, choice.settings)[0]
    progress = _progress(settings, ratio, terms)
    if progress is None:
        return ""
    ends = ""
    if progress.low is not None:
        ends = f" [{progress.low:.2f} {'no bound' if progress.high is None else f'{progress.high:.2f}'}]"
    return (
        f"batch_size={settings.batch_size} does {ratio:.2f} times the samples/s, but by the noise scale needs "
        f"{progress.samples_ratio:.2f} times the samples for the same loss: {progress.ratio:.2f}{ends} times the speed."
    )
