"""What is a recommendation stated in, and what does screening point to?"""

from dataclasses import dataclass

from loadtune.advice.epochs import Gain
from loadtune.records.settings import Optimizer, Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.epoch import count_epoch
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
    epoch_gain: Gain | None = None
    """What keeping its workers makes of a whole epoch beside the same without; None: that is not what it differs by."""


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
    """Of an epoch over all ranks, or of one rank's where `is_rank_share`; None: not known."""
    is_rank_share: bool = False
    """The loader's own sampler deals the data out to ranks, and gave the share of one."""
    drop_last: bool = False
    """The loader leaves out what fills no batch; the counts have it still."""
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

    @property
    def epoch_samples(self) -> int | None:
        """Samples of an epoch over all ranks: what a schedule counts."""
        if self.sample_count is None or not self.is_rank_share:
            return self.sample_count
        return self.sample_count * self.world_size

    @property
    def rank_samples(self) -> int | None:
        """Samples of an epoch that one rank goes through: what takes the time, since rates are one rank's."""
        if self.sample_count is None or self.is_rank_share:
            return self.sample_count
        return -(-self.sample_count // self.world_size)

    def count_epoch(self, batch_size: int) -> int | None:
        """Return the samples of an epoch over all ranks that micro-batches of so many train on; None: not known."""
        return count_epoch(self.epoch_samples, batch_size, world_size=self.world_size, drop_last=self.drop_last)
