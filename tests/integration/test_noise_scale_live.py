"""The noise scale under DistributedDataParallel: two real processes on the CPU."""

import multiprocessing
import os

import pytest

PROCESSES, STEPS, BATCH, ACCUMULATED = 2, 3, 4, 2


def batch_of(rank, step, number):
    import torch

    generator = torch.Generator().manual_seed(1000 * step + 10 * rank + number)
    return torch.randn(BATCH, 5, generator=generator)


def loss_of(model, x):
    return (model(x).squeeze(-1) - x.sum(dim=1)).square().mean()


def make_model():
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(5, 1)


def run_rank(rank, folder, results):
    """One process: accumulate, watch, and tell the norms of each step."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from loadtune.schedule.noise_scale import NoiseScale

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(make_model())
    found = []
    with NoiseScale(model, BATCH) as noise:
        for step in range(STEPS):
            model.zero_grad()
            with model.no_sync():
                loss_of(model, batch_of(rank, step, 0)).backward()
            loss_of(model, batch_of(rank, step, 1)).backward()
            noise.step()
            small, big, count = noise._norms[-1]
            found.append((float(small), float(big), count))
        noise.measure(lambda x: loss_of(model, x), [batch_of(rank, 9, 0), batch_of(rank, 9, 1)])
        found.append(noise._norms[-1][2])
    results.put((rank, found))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_processes_are_micro_batches(tmp_path):
    """Both processes note the same norms, and they are those of all four micro-batches of both."""
    import torch

    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=run_rank, args=(rank, tmp_path, results)) for rank in range(PROCESSES)]
    for process in ranks:
        process.start()
    told = dict(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(timeout=30)
    assert [process.exitcode for process in ranks] == [0, 0]
    model = make_model()
    expected = []
    for step in range(STEPS):
        gradients = [
            torch.cat([each.flatten() for each in torch.autograd.grad(loss_of(model, batch), [*model.parameters()])])
            for batch in (batch_of(rank, step, number) for rank in range(PROCESSES) for number in range(ACCUMULATED))
        ]
        small = float(torch.stack(gradients).square().sum(dim=1).mean())
        expected.append((small, float(torch.stack(gradients).mean(dim=0).square().sum()), PROCESSES * ACCUMULATED))
    assert told[0] == told[1]
    assert told[0][STEPS] == 2  # measure is this process alone
    for (small, big, count), own in zip(told[0], expected, strict=False):
        assert (small, big, count) == (pytest.approx(own[0], rel=1e-5), pytest.approx(own[1], rel=1e-5), own[2])
