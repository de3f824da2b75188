"""What exactly is measured? The user's words, the machine and the data, made definite."""

import pytest
import torch

from loadtune.advice.search import Leg
from loadtune.errors import DeviceError, UsageError
from loadtune.options import ProbeOptions
from loadtune.planning import make_plan, make_search, wanted_cuda, workload_to_look_at
from loadtune.records.messages import CudaInfo, Inspected
from loadtune.records.resources import HostLimits
from loadtune.records.settings import DeviceChoice, Settings, WorkloadSpec
from loadtune.schedule.curve import StepDecay, epochs, iterations
from tests.fake_runner import complete_result

GIB = 2**30
CUDA = CudaInfo(index=0, name="H200", uuid="GPU-1", memory_bytes=141 * GIB, has_bf16=True)


def make_limits(cores=8, **changes):
    values = {
        "usable_cores": float(cores),
        "affinity_cores": int(cores),
        "memory_limit_bytes": 64 * GIB,
        "memory_available_bytes": 60 * GIB,
    }
    return HostLimits(**(values | changes))


def plan(looked=None, cores=8, limits=None, **options):
    options = ProbeOptions(**({"dataset": "data"} | options))
    looked = looked or Inspected(sample_count=1000)
    return make_plan(options, WorkloadSpec(), limits or make_limits(cores), looked)


def test_auto_takes_the_gpu_that_is_there_and_else_the_cpu():
    """bf16 where the GPU has it."""
    with_gpu = plan(Inspected(sample_count=1000, cuda=CUDA))
    assert with_gpu.device == DeviceChoice(kind="cuda", index=0)
    assert with_gpu.workload.precision == "bf16"
    assert with_gpu.baseline.batch_size == 16
    assert with_gpu.needs.device_memory_bytes == 141 * GIB
    without = plan()
    assert without.device == DeviceChoice(kind="cpu")
    assert without.workload.precision == "fp32"
    assert (without.baseline.batch_size, without.workload.crop_px) == (2, 129)
    assert without.warnings[0].startswith("a CPU trains slowly")


def test_a_network_that_was_handed_over_is_not_put_under_autocast():
    """It may be trained in fp32, and binary_cross_entropy is refused under autocast; unless somebody asks for it."""
    looked = Inspected(sample_count=1000, cuda=CUDA)
    for name in ("model", "loss"):
        assert plan(looked, objects={name: object()}).workload.precision == "fp32"
    assert plan(looked, objects={"dataset": object()}).workload.precision == "bf16"
    assert plan(looked, objects={"model": object()}, precision="bf16").workload.precision == "bf16"


def test_a_gpu_that_is_not_there_is_refused_with_torch_s_own_reason():
    """And with what works here."""
    with pytest.raises(DeviceError) as raised:
        plan(Inspected(sample_count=9, cuda_reason="torch finds no CUDA device"), device="cuda:1")
    assert raised.value.what == "--device cuda:1: torch finds no CUDA device"
    assert "--device cpu" in raised.value.hint


@pytest.mark.parametrize(
    ("options", "index"),
    [
        ({}, 0),
        ({"device": "cuda"}, 0),
        ({"device": "cuda:2"}, 2),
        ({"device": "cpu"}, None),
        ({"step_time_s": 0.1}, None),
    ],
)
def test_cuda_is_only_touched_where_the_answer_needs_it(options, index):
    """A replayed or CPU probe opens no context."""
    assert wanted_cuda(ProbeOptions(dataset="data", **options)) == index


def test_on_a_cpu_training_and_workers_share_the_cores():
    """Worker counts end where no core is left, and the default baseline leaves one for the training."""
    for cores, counts, baseline in ((1, (0,), 0), (2, (0, 1), 1), (8, (0, 1, 2, 4), 7)):
        made = plan(cores=cores, device="cpu")
        assert made.num_workers == counts
        assert made.baseline.num_workers == baseline
        assert made.baseline_origin == "one worker a core that training on this CPU leaves"
        assert not made.may_extend_batch
    spec = plan(cores=8, device="cpu").spec(
        Leg(settings=Settings(num_workers=3, batch_size=2), role="grid"), "warm", 0, 0
    )
    assert spec.threads == 5


def test_off_the_cpu_torch_s_own_suggestion_is_the_baseline_and_axes_may_grow():
    """One worker a CPU of the scheduler's mask, whatever a quota says."""
    made = plan(limits=make_limits(4, usable_cores=2.0), step_time_s=0.1)
    assert made.baseline == Settings(num_workers=4, batch_size=16)
    assert made.baseline_origin.startswith("torch's own suggestion")
    assert made.num_workers == (0, 1, 2, 4, 8, 16)
    assert made.batch_sizes == (16, 32, 64)
    assert (made.may_extend_workers, made.may_extend_batch) == (True, True)
    assert made.spec(Leg(settings=made.baseline, role="grid"), "warm", 0, 0).threads is None


def test_what_the_user_names_is_kept_and_not_extended():
    """Axes and baseline."""
    made = plan(step_time_s=0.1, num_workers="2,6", batch_size="8,24", baseline="num_workers=3,pin_memory=true")
    assert (made.num_workers, made.batch_sizes) == ((2, 6), (8, 24))
    assert made.baseline == Settings(num_workers=3, batch_size=8, pin_memory=True)
    assert made.baseline_origin == "--baseline"
    assert (made.may_extend_workers, made.may_extend_batch) == (False, False)
    assert plan(step_time_s=0.1, batch_size="8", baseline="num_workers=3,batch_size=24").baseline.batch_size == 24


def test_accumulation_belongs_to_every_setting():
    """Gradients of several batches to one step."""
    assert plan(accumulate=4).baseline.accumulation_steps == 4
    assert plan(accumulate=4).terms.accumulate


def test_a_step_time_is_stated_for_the_user_s_own_batch():
    """A baseline of 32 makes 0.2 s that of 32."""
    made = plan(step_time_s=0.2, baseline="num_workers=2,batch_size=32")
    assert made.device.profile.at(32).device_s == pytest.approx(0.2)
    made = plan(Inspected(sample_count=1000, loader_settings=Settings(num_workers=2, batch_size=8)), step_time_s=0.2)
    assert made.device.profile.at(8).device_s == pytest.approx(0.2)


def test_a_ready_loader_is_the_baseline():
    """All its settings are what the user runs today; a batch size that is asked for comes before its own."""
    own = Settings(num_workers=3, batch_size=12, prefetch_factor=4, pin_memory=True, persistent_workers=True)
    made = plan(Inspected(sample_count=1000, loader_settings=own), step_time_s=0.1)
    assert made.baseline == own
    asked = plan(Inspected(sample_count=1000, loader_settings=own), step_time_s=0.1, batch_size="6")
    assert (asked.baseline.batch_size, asked.baseline.prefetch_factor) == (6, 4)
    assert made.baseline_origin == "the DataLoader that was handed over"


def test_a_batch_size_that_the_loader_fixes_is_the_only_one():
    """To ask for another is refused."""
    fixed = Inspected(sample_count=1000, fixed_batch_size=7, loader_settings=Settings(num_workers=0, batch_size=7))
    made = plan(fixed, step_time_s=0.1)
    assert made.batch_sizes == (7,)
    assert made.baseline.batch_size == 7
    assert not made.may_extend_batch
    with pytest.raises(UsageError, match="your loader fixes 7"):
        plan(fixed, step_time_s=0.1, baseline="num_workers=2,batch_size=8")


def test_a_small_data_set_bounds_batches_and_workers():
    """No batch larger than the data set, no more workers than an epoch has batches."""
    made = plan(Inspected(sample_count=20), step_time_s=0.1)
    assert made.batch_sizes == (16,)
    assert made.num_workers == (0, 1)
    made = plan(Inspected(sample_count=5), step_time_s=0.1)
    assert made.baseline.batch_size == 5
    assert plan(Inspected(sample_count=1), step_time_s=0.1).baseline.batch_size == 2


def test_an_unknown_length_bounds_nothing():
    """A stream."""
    made = plan(Inspected(sample_count=None, is_iterable=True), step_time_s=0.1)
    assert made.num_workers[-1] == 32
    assert "read by every worker" in made.warnings[-1]


def test_what_the_data_are_is_taken_over_unless_the_user_says_otherwise():
    """Classes, binary masks, crops and base size."""
    looked = Inspected(sample_count=100, class_count=5, is_binary_mask=True)
    made = plan(looked, crop_px=65, augment="none", model="m.py:net", optimizer="adam", learning_rate=0.1)
    assert (made.workload.class_count, made.workload.is_binary_mask, made.workload.sample_count) == (5, True, 100)
    assert (made.workload.crop_px, made.workload.base_size_px) == (65, 65)
    assert (made.workload.model_target, made.workload.optimizer, made.workload.learning_rate) == (
        "m.py:net",
        "adam",
        0.1,
    )
    assert plan(looked, class_count=9, base_size_px=100).workload.class_count == 9
    assert plan(looked, base_size_px=100).workload.base_size_px == 100
    assert plan(precision="fp16").workload.precision == "fp16"


def test_a_sample_s_bytes_are_those_seen_or_those_of_the_crop():
    """Three float32 channels and an int64 label a pixel."""
    for seen in (77, 0):  # a batch without tensors takes no shared memory
        assert plan(Inspected(sample_count=9, sample_bytes=seen)).needs.sample_bytes == seen
    assert plan(crop_px=100).needs.sample_bytes == 10_000 * 20


def test_activations_count_on_a_cpu_for_our_own_network_alone():
    """What the user's model takes is not known."""
    assert plan(device="cpu").needs.activation_bytes_per_sample > 0
    assert plan(device="cpu", model="m.py:net").needs.activation_bytes_per_sample == 0
    assert plan(step_time_s=0.1).needs.activation_bytes_per_sample == 0


@pytest.mark.parametrize(("budget_s", "cap_s", "warm_up_s"), [(20, 8.0, 1.0), (120, 24.0, 6.0), (3600, 60.0, 6.0)])
def test_the_stopping_rule_fits_the_budget(budget_s, cap_s, warm_up_s):
    """One slow cell must not eat the search."""
    made = plan(budget_s=float(budget_s)).measure
    assert (made.cap_s, made.warm_up_s) == (cap_s, warm_up_s)
    assert made.silence_s <= 60


def test_a_leg_s_windows_fit_into_its_seconds():
    """Two windows at least: half the time each at most."""
    made = plan(step_time_s=0.1)
    leg = Leg(settings=made.baseline, role="grid", round=2, feed="cached", consume="nothing", measure_s=1.0)
    spec = made.spec(leg, "streaming", 300, 7)
    assert (spec.measure.measure_s, spec.measure.window_min_s) == (1.0, 0.5)
    assert (spec.feed, spec.consume, spec.cache, spec.first_sample) == ("cached", "nothing", "streaming", 300)
    assert (spec.order_seed, spec.repeat) == (7, 2)
    assert spec.workload == made.workload


@pytest.mark.parametrize(
    ("made", "alone"),
    [(plan(step_time_s=0.1), {8}), (plan(cores=8, device="cpu"), {0, 1, 2, 4, 8})],
    ids=["replay", "cpu"],
)
def test_the_search_measures_what_every_answer_needs(made, alone):
    """Baseline, device and loader alone; on a CPU, at every count that its cores allow."""
    search = make_search(made, lambda settings: None, "grid", seed=0)
    legs = []
    while (leg := search.ask(10_000.0)) is not None:
        legs.append(leg)
        search.tell(
            complete_result(leg.settings, 100.0, role=leg.role, feed=leg.feed, consume=leg.consume, round=leg.round)
        )
    assert {leg.role for leg in legs[:3]} >= {"baseline", "ceiling"}
    assert {leg.settings.num_workers for leg in legs if leg.role == "loader"} == alone
    assert {leg.settings.batch_size for leg in legs} >= set(made.batch_sizes)


def test_the_workload_to_look_at_knows_only_where_the_data_are():
    """Everything else is settled after the look."""
    found = workload_to_look_at(ProbeOptions(dataset="x", import_limit_s=5.0), "train.py:make")
    assert (found.dataset_target, found.import_limit_s) == ("train.py:make", 5.0)


def test_a_scheduler_of_torch_s_is_followed_in_samples():
    """Stepped each iteration, a step is the samples of all ranks; each epoch, it is the data's length."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.5)
    options = {"device": "cpu", "batch_size": "8", "accumulate": 2, "ranks_per_node": 4, "scheduler": scheduler}
    terms = plan(**options, stepped="iteration").terms
    assert terms.schedule == StepDecay(every=30, gamma=0.5, unit=iterations(8 * 2 * 4))
    assert terms.world_size == 4
    assert plan(**options, stepped="epoch").terms.schedule.unit == epochs(1000, is_stepped=True)
    tuned = plan(**options, stepped="iteration", base_batch_size=5).terms.schedule
    assert tuned.unit == iterations(5 * 4)


def test_without_a_length_a_scheduler_stepped_each_epoch_is_left_out_with_a_warning():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    made = plan(Inspected(sample_count=None), device="cpu", scheduler=scheduler, stepped="epoch")
    assert made.terms.schedule is None
    assert any("no length" in each for each in made.warnings)
    other = plan(Inspected(sample_count=None), device="cpu", scheduler=scheduler, stepped="iteration")
    assert other.terms.schedule is not None
    assert not any("no length" in each for each in other.warnings)


def test_an_epoch_of_all_ranks_is_told_from_one_rank_s_share():
    """The schedule counts the first, without what is dropped; time is taken by the second."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    options = {"device": "cpu", "batch_size": "16", "ranks_per_node": 8, "scheduler": scheduler, "stepped": "epoch"}
    share = plan(Inspected(sample_count=125, is_rank_share=True), **options).terms
    whole = plan(Inspected(sample_count=1000), **options).terms
    for terms in (share, whole):
        assert (terms.epoch_samples, terms.rank_samples) == (1000, 125)
        assert terms.schedule.unit == epochs(1000, is_stepped=True)
    dropping = plan(Inspected(sample_count=125, is_rank_share=True, drop_last=True), **options).terms
    assert dropping.schedule.unit == epochs(8 * 112, is_stepped=True)
    unknown = plan(Inspected(sample_count=None), **options).terms
    assert (unknown.epoch_samples, unknown.rank_samples) == (None, None)


def test_validation_has_nothing_to_rescale():
    assert plan(device="cpu").terms.is_training
    assert not plan(device="cpu", purpose="evaluate").terms.is_training
