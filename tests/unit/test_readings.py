"""Which readings are there, and is it said what a missing one costs?"""

from html import unescape
from types import SimpleNamespace

import msgspec
import pytest

from loadtune.monitor.readings import COSTS, find_readings
from loadtune.records.resources import GpuState, GpuUse, ResourceTrace, Unavailable
from loadtune.render.html import render_html
from loadtune.render.readings import compose_missing, compose_readings
from loadtune.render.terminal import answer_lines
from tests.examples import environment, faster_report

LIMITS = environment().limits
SEEN = ResourceTrace(started_monotonic_s=0.0, pss_bytes=1, mean_foreign_cores=0.0, mean_steal_cores=0.0, oom_kills=0)


@pytest.fixture
def root(tmp_path):
    """A machine that has everything but a GPU."""
    for name, text in {
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "proc/self/io": "rchar: 1\nread_bytes: 0\n",
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def driver(reason=None, reader=None):
    return SimpleNamespace(reason=reason, refusal=None, device=lambda uuid: reader)


def by_name(device="cpu", trace=SEEN, nvml=None, uuid=None, limits=LIMITS, **options):
    found = find_readings(device, limits, nvml or driver("no driver"), uuid, trace, **options)
    return {reading.name: reading for reading in found}


def test_every_kind_is_told_once_and_a_missing_one_says_what_it_costs(root):
    """In the order of the table, with a reason and a cost exactly where it is missing."""
    found = by_name(root=root)
    assert list(found) == list(COSTS)
    for reading in found.values():
        assert (reading.reason is None) == (reading.cost is None) == reading.is_available


def test_a_cpu_needs_nothing_of_a_gpu(root):
    """Neither NVML nor GPM is missed there; the rest is there."""
    found = by_name(root=root)
    assert [name for name, reading in found.items() if not reading.is_available] == [
        "GPU utilisation (NVML)",
        "GPU clocks, power and throttling (NVML)",
        "GPU throttle counters (NVML)",
        "GPU energy (NVML)",
        "GPU link and bytes over PCIe (NVML)",
        "other processes on the GPU (NVML)",
        "GPU performance metrics (GPM)",
    ]
    assert not any(found[name].is_needed for name in found if "GPU" in name)


def test_a_cuda_device_without_a_driver_library_says_so(root):
    """NVML's own reason."""
    found = by_name("cuda", nvml=driver("libnvidia-ml.so.1 was not found"), root=root)
    assert found["GPU utilisation (NVML)"].reason == "libnvidia-ml.so.1 was not found"
    assert found["GPU utilisation (NVML)"].is_needed


def test_a_gpu_that_answers_has_its_readings(root):
    """Utilisation and states from the trace, GPM from the driver."""
    use = GpuUse(throttled=(), energy_j=1.0, pcie_generation=4, pcie_rx_bytes_per_s=0.0, other_processes=0)
    trace = msgspec.structs.replace(SEEN, utilisation_mean_ratio=0.5, gpu_states=(GpuState(at_s=0.0),), gpu_use=use)
    closed = []
    reader = SimpleNamespace(gpm_reason=lambda: None, close=lambda: closed.append(True))
    found = by_name("cuda", trace=trace, nvml=driver(reader=reader), uuid="GPU-1", root=root)
    assert all(found[name].is_available for name in found)
    assert closed == [True]
    refusing = SimpleNamespace(gpm_reason=lambda: "the driver says that this GPU has none", close=lambda: None)
    found = by_name("cuda", trace=trace, nvml=driver(reader=refusing), uuid="GPU-1", root=root)
    assert found["GPU performance metrics (GPM)"].reason == "the driver says that this GPU has none"


def test_what_the_sampler_could_not_read_has_its_reason(root):
    """The trace's own words."""
    trace = msgspec.structs.replace(
        SEEN, pss_bytes=None, unavailable=(Unavailable(reading="pss_bytes", reason="smaps_rollup: permission denied"),)
    )
    assert by_name(trace=trace, root=root)["PSS"].reason == "smaps_rollup: permission denied"
    assert by_name(trace=None, root=root)["PSS"].reason == "no trial was watched to its end"


def test_an_empty_machine_has_nothing(tmp_path):
    """No /proc: each file is named."""
    found = by_name(root=tmp_path, limits=msgspec.structs.replace(LIMITS, shm_total_bytes=None))
    for name in ("cgroup limits", "pressure (PSI)", "storage reads", "/dev/shm"):
        assert not found[name].is_available
    assert str(tmp_path / "proc/pressure/cpu") in found["pressure (PSI)"].reason


def test_what_a_trial_could_not_read_of_the_gpu_has_its_reason(root):
    """The trace's own words, or that no GPU was read."""
    trace = msgspec.structs.replace(
        SEEN,
        gpu_use=GpuUse(pcie_generation=4),
        unavailable=(Unavailable(reading="gpu_use.pcie_rx_bytes_per_s", reason="the driver is too old for it"),),
    )
    found = by_name("cuda", trace=trace, nvml=driver(), uuid="GPU-1", root=root)
    assert found["GPU link and bytes over PCIe (NVML)"].reason == "the driver is too old for it"
    assert found["GPU energy (NVML)"].reason == "not read"
    none = by_name("cuda", nvml=driver(), uuid="GPU-1", root=root)
    assert none["GPU energy (NVML)"].reason == "no GPU was read while a trial measured"
    unwatched = by_name("cuda", trace=None, nvml=driver(), uuid="GPU-1", root=root)
    assert unwatched["other processes on the GPU (NVML)"].reason == "no trial was watched to its end"


def test_a_missing_reading_is_told_with_its_cost_and_only_where_it_is_needed(root):
    """The same sentence in a report and in a verification."""
    found = find_readings("cuda", LIMITS, driver("no driver"), None, SEEN, root=root)
    lines = compose_missing(found)
    assert len(lines) == 6
    assert lines[0] == (
        "GPU utilisation (NVML): not available: no driver. What that costs: jitter cannot be shown; how long the "
        "device waited comes from its own timeline"
    )
    assert set(lines) < set(compose_readings(found))
    assert compose_missing(find_readings("cpu", LIMITS, driver("no driver"), None, SEEN, root=root)) == ()


def test_a_report_says_what_is_missing_and_what_that_costs(root):
    """In the terminal and on the page, in the same words; a saved report keeps them."""
    found = find_readings("cuda", LIMITS, driver("no driver"), None, SEEN, root=root)
    plain = faster_report()
    told = msgspec.structs.replace(plain, readings=found)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told
    for line in compose_missing(found):
        assert line in " ".join(" ".join(answer_lines(told)).split())
        assert line in unescape(render_html(told))
    assert "readings that are missing" in answer_lines(told)
    assert "readings that are missing" not in answer_lines(plain)
    assert "Readings that are missing" not in render_html(plain)
