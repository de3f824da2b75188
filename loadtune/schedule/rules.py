"""What does each hyperparameter become when the batch grows by a ratio kappa?

Numbers in, numbers out: one function for each rule, with where the rule comes from and where it ends. `rescale`
applies them to an optimizer. Samples behind one optimizer step are meant by "batch" throughout.

All of them ask the same thing: that training looks alike as a function of the samples seen. A factor of the learning
rate depends on the two batch sizes only, so a schedule that is a function of samples seen keeps its shape.
"""

from dataclasses import dataclass

WARM_UP_RATIO = 2.0
"""Above this batch ratio both rules fail early in training without a warm-up (Goyal et al. 2017, 2.2)."""
WARM_UP_EPOCHS = 5
"""Of Goyal et al. 2017, 2.2, who trained for 90. With fewer, their largest batches did not recover."""
WARM_UP_RUN_PART = 10
"""At most this part of a run is spent on warming up, a tenth. Our own: five epochs of ten would be half of it."""
BATCH_NORM_BATCH_SIZE = 8
"""Below 8 samples a GPU BatchNorm's statistics, not the rate, set the floor (DeepLabv3: mIOU falls)."""
SMALL_KAPPA = 0.5
"""Below it a batch shrinks so far that a rate tuned beyond the noise scale would come out visibly too small."""
DECAY_END = 1 - 1e-9
"""kappa (1 - beta) from which a memory is shorter than a step; 10 * (1 - 0.9) is a hair below 1 in binary."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in words, and where it comes from."""

    name: str
    source: str


LINEAR = Rule("linear", "Goyal et al. 2017, arXiv 1706.02677")
NOISE_LIMITED = Rule(
    "kappa (B + Bn) / (kappa B + Bn) with the noise scale Bn", "McCandlish et al. 2018, arXiv 1812.06162"
)
SQUARE_ROOT = Rule("square root", "Malladi et al. 2022, arXiv 2205.10287")
DECAY = Rule("1 - beta grows kappa times", "Malladi et al. 2022, arXiv 2205.10287")
EPS = Rule("divided by the square root", "Malladi et al. 2022, arXiv 2205.10287")
DECOUPLED_DECAY = Rule("lr * weight_decay grows kappa times", "Wang and Aitchison 2024, arXiv 2405.13698")
EMA = Rule("decay to the power of kappa", "Busbridge et al. 2023, arXiv 2307.13813")
BATCH_NORM = Rule("running statistics remember as many samples", "the arithmetic of any average, as for a model's")
MOMENTUM_MEMORY = Rule("momentum remembers as many samples", "arithmetic: B / (1 - momentum) stays")


def noise_limited_factor(kappa: float, base_batch_size: float, noise_scale: float) -> float:
    """Return the factor of SGD's learning rate where the noise scale Bn is known.

    The best rate at batch B is eps_max / (1 + Bn / B) (McCandlish et al. 2018, section 2.2), so the ratio of two
    is kappa (B + Bn) / (kappa B + Bn): kappa for batches far below Bn, 1 for batches far above it.
    """
    return kappa * (base_batch_size + noise_scale) / (kappa * base_batch_size + noise_scale)


def rescale_decay(decay: float, kappa: float) -> float:
    """Return the decay of a moving average within an optimizer: 1 - kappa (1 - decay), and 0 where that is negative.

    Malladi et al. 2022 derive it for small kappa (1 - decay). From kappa (1 - decay) = 1 on, the average used to
    remember no more samples than one step now holds: it is dropped, which is where the rule leads as kappa grows.
    """
    return 0.0 if kappa * (1 - decay) >= DECAY_END else 1 - kappa * (1 - decay)


def rescale_average(decay: float, kappa: float) -> float:
    """Return the decay of a model's average, decay ** kappa: after the same samples as much of the old is left."""
    return float(decay**kappa)


def rescale_batch_norm(momentum: float, kappa: float) -> float:
    """Return BatchNorm's momentum, 1 - (1 - momentum) ** kappa; torch's momentum is the weight of the new batch."""
    return 1 - rescale_average(1 - momentum, kappa)


def momentum_memory(momentum: float, kappa: float) -> tuple[float, float]:
    """Return SGD's momentum that remembers as many samples, and the further factor of the rate that goes with it.

    A heavy ball moves by lr / (1 - momentum) for each gradient, so a smaller momentum needs a larger rate:
    lr' / (1 - momentum') = kappa lr / (1 - momentum), that is kappa^2 where 1 - momentum' = kappa (1 - momentum).
    """
    kept = rescale_decay(momentum, kappa)
    return kept, (1 - kept) / (1 - momentum)


def warm_up_samples(sample_count: int, epochs: int | None) -> int:
    """Return how many samples to warm up over: five epochs, or a tenth of the run if that is less."""
    whole = WARM_UP_EPOCHS * sample_count
    return whole if epochs is None else min(whole, -(-epochs * sample_count // WARM_UP_RUN_PART))


def samples_ratio(base_batch_size: float, batch_size: float, noise_scale: float) -> float:
    """Return how many times the samples the same loss takes: (B' + Bn) / (B + Bn).

    At its best rate a step at batch B wins 1 / (1 + Bn / B) of what a step without noise wins (McCandlish et al. 2018,
    section 2.2). So a loss takes S_min (1 + Bn / B) steps, which are S_min (B + Bn) samples.
    """
    return (batch_size + noise_scale) / (base_batch_size + noise_scale)
