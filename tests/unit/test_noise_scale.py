"""What NoiseScale sees of a training loop, and that the loop does not notice."""

import copy

import pytest
import torch
from torch import nn

from loadtune.errors import UsageError
from loadtune.schedule.noise_scale import BATCH_NORM_BARE, BATCH_NORM_TRAINED, LOWER_BOUND, WINDOW_STEPS, NoiseScale

BATCH = 4


class Net(nn.Module):
    """Conv and BatchNorm, dropout, a layer used twice and one that is never used."""

    def __init__(self, norm=True):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.25 if norm else 0.0)
        self.last = nn.Linear(6, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.tanh(self.first(self.norm(torch.tanh(self.first(x)))))
        return self.last(self.dropout(x)).squeeze(-1)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def micro_batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, 6, generator=generator) for _ in range(count)]


def loss_of(model):
    return lambda x: (model(x) - x.sum(dim=1)).square().mean()


def squared(gradients):
    return float(sum(each.double().square().sum() for each in gradients if each is not None))


def expected(model, batches):
    """Norms by torch.autograd.grad, one micro-batch at a time."""
    parameters = list(model.parameters())
    found = [torch.autograd.grad(loss_of(model)(batch), parameters, allow_unused=True) for batch in batches]
    means = [sum(each) / len(batches) for each in zip(*found, strict=True) if each[0] is not None]
    return sum(map(squared, found)) / len(batches), squared(means)


def noted(noise):
    (small, big, count) = noise._norms[-1]
    return float(small), float(big), count


@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1024.0])
def test_accumulation_is_seen_as_it_is(scale):
    """Whether the loss was divided by the steps of accumulation or scaled: their ratio is the same."""
    torch.manual_seed(0)
    model = Net(norm=False)
    batches = micro_batches(3)
    small, big = expected(model, batches)
    with NoiseScale(model, BATCH) as noise:
        for batch in batches:
            (scale * loss_of(model)(batch)).backward()
        noise.step()
    found = noted(noise)
    assert found == (pytest.approx(scale**2 * small, rel=1e-5), pytest.approx(scale**2 * big, rel=1e-5), 3)


def test_measuring_sees_the_same_as_watching():
    """The two ways agree where there is no BatchNorm."""
    torch.manual_seed(0)
    model = Net(norm=False)
    batches = micro_batches(5)
    noise = NoiseScale(model, BATCH)
    noise.measure(loss_of(model), batches)
    assert noted(noise) == (*map(pytest.approx, expected(model, batches)), 5)


def train(model, watch, measure=False):
    """Six steps of two micro-batches; return the weights, the gradients and the next random number."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    noise = NoiseScale(model, BATCH)
    data = micro_batches(12)
    if watch:
        noise.__enter__()
    for step in range(6):
        optimizer.zero_grad()
        for batch in data[2 * step : 2 * step + 2]:
            loss_of(model)(batch).backward()
        if watch:
            noise.step()
        if measure:
            noise.measure(loss_of(model), micro_batches(3, seed=step))
        optimizer.step()
    if watch:
        noise.__exit__(None, None, None)
    return [*model.state_dict().values(), *(each.grad for each in model.parameters()), torch.rand(1)]


@pytest.mark.parametrize("measure", [False, True])
def test_the_training_does_not_notice(net, measure):
    """Weights, BatchNorm's buffers, gradients and random numbers are the same to the bit."""
    other = copy.deepcopy(net)
    plain, watched = train(net, watch=False), train(other, watch=True, measure=measure)
    assert len(plain) == len(watched)
    for first, second in zip(plain, watched, strict=True):
        assert (first is None and second is None) or torch.equal(first, second)
    assert not any(each._backward_hooks for each in other.parameters())


def state(model):
    modes = [module.training for module in model.modules()]
    return modes, {name: each.clone() for name, each in model.state_dict().items()}, torch.get_rng_state()


@pytest.mark.parametrize("fails", [False, True])
def test_measuring_freezes_batch_norm_and_puts_all_back(net, fails):
    """BatchNorm alone is in evaluation mode meanwhile, and all is as it was afterwards, also after an exception."""
    net.last.eval()  # a mode of the user's own, to be left alone
    modes, values, random = state(net)
    seen = []

    def loss(batch):
        seen.append((net.norm.training, net.dropout.training))
        net.norm.running_mean.add_(1.0)
        net.norm.running_var = torch.zeros(6)
        if fails and len(seen) == 2:
            raise RuntimeError("in the user's loss")
        return loss_of(net)(batch)

    noise = NoiseScale(net, BATCH)
    if fails:
        with pytest.raises(RuntimeError, match="user's loss"):
            noise.measure(loss, micro_batches(3))
    else:
        noise.measure(loss, micro_batches(3))
    after_modes, after_values, after_random = state(net)
    assert set(seen) == {(False, True)}
    assert after_modes == modes
    assert torch.equal(after_random, random)
    assert all(torch.equal(values[name], after_values[name]) for name in values)
    assert all(each.grad is None for each in net.parameters())


def test_measuring_between_forward_and_backward(net):
    """A pending backward pass still works: nothing it needs was written to."""
    loss = loss_of(net)(micro_batches(1)[0])
    NoiseScale(net, BATCH).measure(loss_of(net), micro_batches(2))
    loss.backward()
    assert net.last.weight.grad is not None


def test_hooks_do_not_count_what_is_measured(net):
    """While watching, measure adds its own step and leaves the watched one alone."""
    with NoiseScale(net, BATCH) as noise:
        for batch in micro_batches(2):
            loss_of(net)(batch).backward()
        noise.measure(loss_of(net), micro_batches(4))
        noise.step()
    assert [count for _, _, count in noise._norms] == [4, 2]


def linear_training(steps, noise_of, seed=0):
    """Train y = x . truth + noise with accumulation; return what `noise_of` makes of it."""
    torch.manual_seed(seed)
    model = nn.Linear(20, 1, bias=False)
    nn.init.zeros_(model.weight)
    truth = torch.ones(20) / 20**0.5
    with NoiseScale(model, 8, is_trained=True) as noise:
        for _ in range(steps):
            model.zero_grad()
            for _ in range(8):
                x = torch.randn(8, 20)
                y = x @ truth + torch.randn(8)
                (0.5 * (model(x).squeeze(-1) - y).square().mean()).backward()
            noise.step()
    return noise_of(noise)


def test_a_linear_model_of_known_noise_scale():
    """With weights at rest: tr(Sigma) = (1 + 1) * 20 + 1 and |G|^2 = 1, so the noise scale is 41."""
    found = linear_training(60, NoiseScale.estimate)
    assert found.low < 41.0 < found.high
    assert found.high / found.low < 4.0
    assert (found.steps, found.is_lower_bound, found.notes) == (60, False, ())


def test_an_untrained_network_gives_a_lower_bound_and_says_so(net):
    """It is in the record and in its text; so is BatchNorm in training."""
    with NoiseScale(net, BATCH) as noise:
        for step in range(10):
            net.zero_grad()
            for batch in micro_batches(2, seed=step):
                loss_of(net)(batch).backward()
            noise.step()
    found = noise.estimate()
    assert found.is_lower_bound
    assert found.notes == (BATCH_NORM_TRAINED, LOWER_BOUND)
    assert LOWER_BOUND in repr(found)


def test_frozen_batch_norm_is_not_complained_of(net):
    """Nor is what measure froze itself; what cannot be frozen is."""
    noise = NoiseScale(net, BATCH, is_trained=True)
    noise.measure(loss_of(net), micro_batches(2))
    assert noise.estimate().notes == ()
    net.norm = nn.BatchNorm1d(6, track_running_stats=False)
    noise = NoiseScale(net, BATCH, is_trained=True)
    noise.measure(loss_of(net), micro_batches(2))
    assert noise.estimate().notes == (BATCH_NORM_BARE,)


def test_overflowed_steps_are_left_out_and_old_ones_forgotten():
    """GradScaler lets some steps overflow; the window holds the latest."""
    model = nn.Linear(3, 1)
    with NoiseScale(model, 2) as noise:
        for step in range(WINDOW_STEPS + 5):
            model.zero_grad()
            for scale in (1.0, 2.0):
                (model(torch.ones(2, 3)).mean() * (float("inf") if step == 100 else scale)).backward()
            noise.step()
    found = noise.estimate()
    assert found.steps == WINDOW_STEPS - 1
    assert found.notes[0] == "1 steps whose gradients overflowed are left out."


def test_what_cannot_be_measured_is_refused(net):
    """Nothing to compare, nothing to train, no samples, and a second watch at once."""
    with pytest.raises(UsageError, match="batch_size"):
        NoiseScale(net, 0)
    with pytest.raises(UsageError, match="requires a gradient"):
        NoiseScale(nn.Identity(), 4)
    noise = NoiseScale(net, BATCH)
    with pytest.raises(UsageError, match="1 micro-batches"):
        noise.measure(loss_of(net), micro_batches(1))
    with noise:
        with pytest.raises(UsageError, match="no backward pass"):
            noise.step()
        loss_of(net)(micro_batches(1)[0]).backward()
        with pytest.raises(UsageError, match="one micro-batch"):
            noise.step()
        with pytest.raises(UsageError, match="watches already"):
            noise.__enter__()


def test_sparse_and_half_gradients_are_counted():
    """Embeddings may have sparse gradients, and half precision would overflow when squared."""
    table = nn.Embedding(5, 2, sparse=True)
    with NoiseScale(table, 2) as noise:
        for index in (1, 3):
            table(torch.tensor([index, index])).sum().backward()
        noise.step()
    assert noted(noise) == (
        pytest.approx(8.0),
        pytest.approx(4.0),
        2,
    )  # each row twice: |(2, 2)|^2, and of the mean 2 * |(1, 1)|^2
    half = nn.Parameter(torch.ones(1, dtype=torch.float16))
    module = nn.Module()
    module.weight = half
    with NoiseScale(module, 1) as noise:
        for _ in range(2):
            (half * 1000).sum().backward()
        noise.step()
    assert noted(noise)[:2] == (1e6, 1e6)
