"""By what arithmetic is a setting refused? At the very edge of each limit, and one step beyond."""

import pytest

from loadtune.advice.feasibility import (
    ACTIVATION_BYTES_PER_PIXEL,
    BATCHES_IN_HAND,
    FREE_RATIO,
    GIB,
    MAIN_BYTES,
    MIB,
    OPEN_FILES_BASE,
    OPEN_FILES_PER_WORKER,
    WORKER_BYTES,
    Needs,
    find_obstacle,
    main_threads,
    shm_size_bytes,
)
from loadtune.records.measurement import Cause
from loadtune.records.resources import HostLimits
from loadtune.records.settings import Settings


def make_limits(**changes):
    values = {
        "usable_cores": 8.0,
        "affinity_cores": 8,
        "memory_limit_bytes": 64 * GIB,
        "memory_available_bytes": 64 * GIB,
        "shm_free_bytes": 32 * GIB,
        "open_files_limit": 65535,
    }
    return HostLimits(**(values | changes))


def make_needs(**changes):
    return Needs(**({"device": "replay", "sample_bytes": MIB} | changes))


SETTINGS = Settings(num_workers=4, batch_size=16)  # 8 batches in flight, 10 with those in hand, of 16 MiB


def test_a_roomy_machine_forbids_nothing():
    """None."""
    assert find_obstacle(SETTINGS, make_limits(), make_needs()) is None


def test_shared_memory_holds_what_is_in_flight_and_in_hand():
    """10 batches of 16 MiB; without workers nothing crosses it."""
    needed = (8 + BATCHES_IN_HAND) * 16 * MIB
    assert shm_size_bytes(SETTINGS, MIB) == needed
    assert shm_size_bytes(Settings(num_workers=0, batch_size=16), MIB) == 0
    assert find_obstacle(SETTINGS, make_limits(shm_free_bytes=needed), make_needs()) is None
    found = find_obstacle(SETTINGS, make_limits(shm_free_bytes=needed - 1), make_needs())
    assert found.cause is Cause.SHARED_MEMORY
    assert found.arithmetic == (
        "10 batches in flight x 16.0 MiB = 160.0 MiB of shared memory, /dev/shm has 160.0 MiB free"
    )
    single = Settings(num_workers=0, batch_size=16)
    assert find_obstacle(single, make_limits(shm_free_bytes=0), make_needs()) is None


def test_the_prefetch_factor_counts():
    """Four a worker instead of two."""
    wide = Settings(num_workers=4, batch_size=16, prefetch_factor=4)
    assert shm_size_bytes(wide, MIB) == (16 + BATCHES_IN_HAND) * 16 * MIB


def test_what_is_not_known_forbids_nothing():
    """No size of a sample, no limit, no mount."""
    for limits, needs in (
        (make_limits(shm_free_bytes=0), make_needs(sample_bytes=None)),
        (make_limits(shm_free_bytes=None, open_files_limit=None), make_needs()),
    ):
        assert find_obstacle(SETTINGS, limits, needs) is None


def test_open_files_are_tensors_in_flight_and_pipes():
    """Each tensor on its way is a descriptor."""
    needed = (8 + BATCHES_IN_HAND) * 3 + OPEN_FILES_BASE + OPEN_FILES_PER_WORKER * 4
    needs = make_needs(tensors_per_batch=3)
    assert find_obstacle(SETTINGS, make_limits(open_files_limit=needed), needs) is None
    found = find_obstacle(SETTINGS, make_limits(open_files_limit=needed - 1), needs)
    assert found.cause is Cause.OPEN_FILES
    assert f"= {needed} open files, the limit is {needed - 1}" in found.arithmetic


def test_host_memory_is_main_process_workers_and_batches():
    """Nine tenths of what is available may be planned with."""
    needed = MAIN_BYTES["replay"] + 4 * WORKER_BYTES + 10 * 16 * MIB
    fits = int(needed / FREE_RATIO) + 2
    assert find_obstacle(SETTINGS, make_limits(memory_available_bytes=fits), make_needs()) is None
    found = find_obstacle(SETTINGS, make_limits(memory_available_bytes=fits - 8), make_needs())
    assert found.cause is Cause.HOST_MEMORY
    assert "4 workers" in found.arithmetic


def test_training_on_the_cpu_holds_its_activations_in_host_memory():
    """They grow with the batch."""
    needs = make_needs(device="cpu", activation_bytes_per_sample=ACTIVATION_BYTES_PER_PIXEL * 513**2)
    limits = make_limits(memory_available_bytes=16 * GIB)
    assert find_obstacle(Settings(num_workers=1, batch_size=8), limits, needs) is None
    assert find_obstacle(Settings(num_workers=1, batch_size=32), limits, needs).cause is Cause.HOST_MEMORY


@pytest.mark.parametrize(
    ("num_workers", "cores", "threads"), [(0, 8.0, 7), (1, 8.0, 7), (5, 8.0, 3), (8, 8.0, 1), (0, 1.0, 1), (3, 2.5, 1)]
)
def test_the_main_process_trains_on_the_cores_that_workers_leave(num_workers, cores, threads):
    """One core is left even without workers, and one thread trains at least."""
    assert main_threads(Settings(num_workers=num_workers, batch_size=2), cores) == threads


def test_on_a_cpu_workers_and_training_share_the_cores():
    """Elsewhere workers that wait cost no core."""
    limits = make_limits(usable_cores=2.0, affinity_cores=2)
    assert find_obstacle(Settings(num_workers=1, batch_size=2), limits, make_needs(device="cpu")) is None
    found = find_obstacle(Settings(num_workers=2, batch_size=2), limits, make_needs(device="cpu"))
    assert found.cause is Cause.CORES
    assert found.arithmetic == "1 training thread + 2 workers x 1 cores = 3 cores, 2 are usable"
    asked = Settings(num_workers=1, batch_size=2, main_threads=2)
    assert find_obstacle(asked, limits, make_needs(device="cpu")).cause is Cause.CORES
    assert find_obstacle(Settings(num_workers=16, batch_size=2), limits, make_needs(device="cuda")) is None


def test_two_measured_batch_sizes_predict_a_third():
    """m0 + m1 * B from the smallest and the largest; never for a size that was measured or is smaller."""
    needs = make_needs(device="cuda", device_memory_bytes=10 * GIB, device_points={8: 3 * GIB, 16: 5 * GIB})

    def at(batch_size, **changes):
        fields = {"device": "cuda", "sample_bytes": MIB, "device_memory_bytes": needs.device_memory_bytes}
        points = changes.get("points", needs.device_points)
        return find_obstacle(
            Settings(num_workers=0, batch_size=batch_size), make_limits(), Needs(**fields, device_points=points)
        )

    assert at(32) is None  # 9 GiB
    found = at(64)  # 17 GiB
    assert found.cause is Cause.DEVICE_MEMORY
    assert found.arithmetic == (
        "5.00 GiB at batch 16 + 48 x 256.0 MiB = 17.00 GiB of device memory, the device has 10.00 GiB"
    )
    assert at(64, points={16: 5 * GIB}) is None
    assert at(16, points={8: 3 * GIB, 16: 11 * GIB}) is None


def test_a_small_shared_memory_is_named_before_anything_else():
    """The first obstacle is the one that a container's options can lift."""
    nothing = make_limits(shm_free_bytes=0, open_files_limit=1, memory_available_bytes=1)
    assert find_obstacle(SETTINGS, nothing, make_needs()).cause is Cause.SHARED_MEMORY
