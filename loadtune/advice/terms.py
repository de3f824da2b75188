"""What is a recommendation stated in, and what does screening point to?"""

from dataclasses import dataclass

from loadtune.records.settings import Optimizer, Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.optimizers import Held
from loadtune.schedule.pasting import Schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What screening points to, at the user's batch size."""

    settings: Settings
    rate_per_s: float
    ties: tuple[Settings, ...]
    """As fast within the tie rule, and dearer; the best itself among them where it is not the choice."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a recommendation is stated in: the run it is for, and how its rate was tuned."""

    baseline: Settings
    baseline_origin: str
    optimizer: Optimizer
    base_batch_size: int | None = None
    """Samples behind one optimizer step where the learning rate was tuned; None: the baseline's."""
    learning_rate: float | None = None
    sample_count: int | None = None
    epochs: int = 30
    accumulate: bool = False
    """Whether a larger micro-batch with fewer accumulation steps is wanted as an answer."""
    world_size: int = 1
    """Ranks that train together; the batches here are one rank's."""
    noise_scale: NoiseScaleEstimate | None = None
    """What a larger batch is worth hangs on it; None: not measured."""
    handed_optimizer: Held | str | None = None
    """What the optimizer that was handed over holds, or its class where there is no rule for it; None: only named."""
    schedule: Schedules | None = None
    """What the scheduler that was handed over follows."""
    is_training: bool = True
    """False: nothing is optimized, so nothing is to be rescaled."""
