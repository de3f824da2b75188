"""Which learning rate does another batch size ask for?

Pure: it turns a batch ratio into a factor and says where the rule behind it ends. It reads no optimizer and
no schedule: what else hangs on the batch (betas, weight decay, averages, schedules in samples) is not in it.
"""

import math

from loadtune.records.report import LearningRate
from loadtune.records.settings import Optimizer

WARM_UP_RATIO = 2.0
"""Above this batch ratio both rules fail early in training without a warm-up (Goyal et al. 2017, 2.2)."""
BATCH_NORM_BATCH_SIZE = 8
"""Below 8 samples a GPU BatchNorm's statistics, not the rate, set the floor (DeepLabv3: mIOU falls)."""
ADAM_BETA1 = 0.9
"""torch's default beta1 of Adam and AdamW; the square-root rule needs kappa * (1 - beta1) < 1."""

LINEAR_RULE = "linear for SGD (Goyal et al. 2017)"
SQUARE_ROOT_RULE = "square root for the Adam family (Malladi et al. 2022)"
UNCHANGED_RULE = "same effective batch size: nothing to rescale"


def rescale_learning_rate(
    optimizer: Optimizer, base_batch_size: int, batch_size: int, rate: float | None = None
) -> LearningRate:
    """Return the factor from `base_batch_size` to `batch_size`, and the new rate where the old one is given.

    Args:
        optimizer: The optimizer that trains.
        base_batch_size: Samples behind one optimizer step where `rate` was tuned.
        batch_size: Samples behind one optimizer step now (batch_size * accumulation_steps).
        rate: The learning rate at `base_batch_size`; None: the factor only.

    Raises:
        ValueError: A batch size is below 1, or the rate is not positive.
    """
    if base_batch_size < 1 or batch_size < 1 or (rate is not None and not rate > 0.0):
        raise ValueError(f"no rescaling from batch {base_batch_size} to {batch_size} at rate {rate}")
    kappa = batch_size / base_batch_size
    is_sgd = optimizer == "sgd"
    factor = kappa if is_sgd else math.sqrt(kappa)
    rule = LINEAR_RULE if is_sgd else SQUARE_ROOT_RULE
    return LearningRate(
        factor=factor,
        rate=None if rate is None else rate * factor,
        rule=UNCHANGED_RULE if kappa == 1.0 else rule,
        base_batch_size=base_batch_size,
        batch_size=batch_size,
        warnings=_compute_warnings(is_sgd, kappa, batch_size),
    )


def _compute_warnings(is_sgd: bool, kappa: float, batch_size: int) -> tuple[str, ...]:
    warnings = []
    if kappa > WARM_UP_RATIO:
        warnings.append(f"The batch grows {kappa:g} times: warm up the learning rate over a few epochs.")
    if not is_sgd and kappa * (1 - ADAM_BETA1) >= 1 - 1e-9:  # 10 * (1 - 0.9) is a hair below 1 in binary
        warnings.append(
            f"With beta1 = {ADAM_BETA1} the square-root rule ends below a batch ratio of "
            f"{1 / (1 - ADAM_BETA1):.0f}; this one is {kappa:g}."
        )
    if batch_size < BATCH_NORM_BATCH_SIZE and kappa != 1.0:
        warnings.append(
            f"BatchNorm sees {batch_size} samples a step, below {BATCH_NORM_BATCH_SIZE}: "
            "its statistics may limit accuracy whatever the rate."
        )
    return tuple(warnings)
