"""What the page says of the GPU: only what was read, and the link beside what it could do."""

from html import unescape

import msgspec
import pytest

from loadtune.records.resources import GpuInfo, GpuUse, Throttled
from loadtune.render.gpu import compose_gpu_use
from loadtune.render.html import render_html
from tests.examples import empty_report, faster_report

UUID = "GPU-1"
GPU = GpuInfo(uuid=UUID, name="NVIDIA H100", pcie_max_generation=5, pcie_max_width=16)
WHOLE = GpuUse(
    energy_j=3000.0,
    mean_power_w=300.0,
    throttled=(Throttled(cause="power_cap", ratio=0.4), Throttled(cause="thermal", ratio=0.01)),
    pcie_rx_bytes_per_s=2.0 * (1 << 30),
    pcie_tx_bytes_per_s=1e6,
    pcie_generation=4,
    pcie_width=16,
    sm_active_ratio=0.6,
    sm_occupancy_ratio=0.3,
    tensor_active_ratio=0.2,
    dram_active_ratio=0.45,
    other_processes=1,
)


def report_with(use, gpus=(GPU,)):
    """A report whose trials all used one GPU so."""
    plain = faster_report()
    trials = tuple(
        trial
        if trial.trace is None or trial.measurement is None
        else msgspec.structs.replace(
            trial,
            trace=msgspec.structs.replace(trial.trace, gpu_use=use),
            measurement=msgspec.structs.replace(trial.measurement, device_uuid=UUID),
        )
        for trial in plain.trials
    )
    environment = msgspec.structs.replace(plain.environment, gpus=gpus)
    return msgspec.structs.replace(plain, trials=trials, environment=environment)


def test_all_that_was_read_is_said_of_both_settings():
    """The baseline first."""
    lines = compose_gpu_use(report_with(WHOLE))
    assert len(lines) == 2
    assert lines[0].partition(": ")[2] == (
        "300 W on average; clocks held down by the power cap 40 % of the time, by heat 1 % of the time; "
        "PCIe generation 4 x16 under load (it could do generation 5 x16); 2.00 GiB/s over it to the GPU; "
        "multiprocessors active 60 %; their room for warps filled 30 %; tensor cores active 20 %; "
        "memory bandwidth used 45 %; other processes on it: 1."
    )
    assert lines[0].partition(":")[0] != lines[1].partition(":")[0]
    page = unescape(render_html(report_with(WHOLE))).replace("\N{NO-BREAK SPACE}", " ")
    assert all(line in page for line in lines)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (GpuUse(throttled=()), "nothing held the clocks down."),
        (GpuUse(pcie_generation=5, pcie_width=16), "PCIe generation 5 x16 under load."),
        (GpuUse(other_processes=0), None),
        (GpuUse(), None),
        (None, None),
    ],
)
def test_what_was_not_read_is_not_said(use, said):
    """No zero stands for it; and a link that does what it can needs no remark."""
    lines = compose_gpu_use(report_with(use))
    assert [line.partition(": ")[2] for line in lines] == ([] if said is None else [said, said])


def test_an_unknown_gpu_has_no_link_to_compare_with():
    """As where NVML lists others than the trial named."""
    (line, _) = compose_gpu_use(report_with(GpuUse(pcie_generation=4, pcie_width=8), gpus=()))
    assert line.endswith("PCIe generation 4 x8 under load.")
    assert compose_gpu_use(empty_report()) == ()
