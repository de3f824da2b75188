"""Where do the rules end? What is to be said with a rescaled rate, as sentences."""

from collections.abc import Iterable

from loadtune.schedule.batch_growth import NoiseScaleEstimate, batch_growth, read_noise_scale
from loadtune.schedule.rules import (
    BATCH_NORM_BATCH_SIZE,
    DECAY_END,
    SMALL_KAPPA,
    WARM_UP_RATIO,
    samples_ratio,
)

SAMPLES_WARNED_RATIO = 1.25
"""How many times the samples the same loss takes, from which it is said. Runs in benchmarks/learning_rate.py ended
alike at 1.1 and not at 1.6: with a smaller one they are warned of for nothing, with a larger one not in time."""


def warn_of_warm_up(kappa: float, samples: int | None = None, batch_size: int | None = None) -> list[str]:
    """Say that the rate must be warmed up, and for how long if that is known."""
    if kappa <= WARM_UP_RATIO:
        return []
    if samples is None or batch_size is None:
        return [f"The batch grows {kappa:g} times: warm up the learning rate over a few epochs."]
    steps = -(-samples // batch_size)
    return [f"The batch grows {kappa:g} times: warm up the learning rate over {samples} samples ({steps} steps)."]


def warn_of_decays(kappa: float, decays: Iterable[tuple[str, float]]) -> list[str]:
    """Say which averages of the optimizer would be shorter than a step.

    Args:
        kappa: The batch ratio.
        decays: Name and value of each, at the base batch.
    """
    return [
        f"With {name} = {decay:g} the rule ends below a batch ratio of {1 / (1 - decay):.0f}, where {name} reaches 0; "
        f"this one is {kappa:g}."
        for name, decay in decays
        if kappa > 1.0 and decay > 0.0 and kappa * (1 - decay) >= DECAY_END
    ]


def warn_of_batch_norm(kappa: float, batch_size: int) -> list[str]:
    """Say that BatchNorm sees few samples.

    Args:
        kappa: The batch ratio; nothing is said where nothing changes.
        batch_size: Samples that BatchNorm sees at once: of one GPU and one micro-batch.
    """
    if batch_size >= BATCH_NORM_BATCH_SIZE or kappa == 1.0:
        return []
    why = "its statistics may limit accuracy whatever the rate."
    return [f"BatchNorm sees {batch_size} samples a step, below {BATCH_NORM_BATCH_SIZE}: {why}"]


def warn_of_another_loss(base_batch_size: int, batch_size: int) -> list[str]:
    """Say that BatchNorm normalises over another number of samples.

    Args:
        base_batch_size: Samples that BatchNorm saw at once where the rate was tuned.
        batch_size: The same, now.
    """
    if batch_size == base_batch_size:
        return []
    what = f"BatchNorm normalises over {batch_size} samples instead of {base_batch_size}"
    advice = f"no rate makes up for it; micro-batches of {base_batch_size}, accumulated or on more GPUs, avoid it."
    return [f"{what}, which changes the loss itself (Goyal et al. 2017, 2.3): {advice}"]


def warn_of_noise_scale(
    base_batch_size: int, batch_size: int, noise_scale: NoiseScaleEstimate | float | None, *, is_linear: bool
) -> list[str]:
    """Say what a batch that is not small beside the noise scale costs, or what is not known where a rate was lowered.

    Args:
        base_batch_size: Samples behind one optimizer step where the rate was tuned.
        batch_size: The same, now.
        noise_scale: None: not measured.
        is_linear: Whether the rate follows the batch linearly: then a rate that was tuned beyond the noise scale,
            where it no longer followed the batch, is lowered too far.
    """
    kappa = batch_size / base_batch_size
    if noise_scale is None:
        return [_SHRINKING.format(ratio=1 / kappa)] if is_linear and kappa < SMALL_KAPPA else []
    measured = read_noise_scale(noise_scale)
    scale = measured.scale
    if scale is None:
        return [f"The noise scale is not known ({measured.reason}): nothing can be said of a batch of {batch_size}."]
    ratio = samples_ratio(base_batch_size, batch_size, scale)
    if kappa <= 1.0 or ratio < SAMPLES_WARNED_RATIO:
        return []
    where = "beyond" if batch_size > scale else "not small beside"
    told = f"{scale:.3g}"
    if measured.low is not None:
        high = "no bound" if measured.high is None else f"{measured.high:.3g}"
        told += f" [{measured.low:.3g} {high}]"
    if measured.is_lower_bound:
        told += ", a lower bound"
    growth = batch_growth(measured, base_batch_size)
    advice = "" if growth is None or growth.batch_size >= batch_size else f" {growth.detail}"
    cost = f"the same loss takes about {ratio:.2g} times the samples, so as many epochs train less."
    return [f"A batch of {batch_size} is {where} the noise scale of {told}: {cost}{advice}"]


_SHRINKING = (
    "The batch shrinks {ratio:.3g} times. If the old one was beyond the noise scale, the new rate is too small: "
    "give noise_scale=... to account for it."
)
