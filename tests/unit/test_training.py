"""The training step: it learns, accumulates, keeps its types, and refuses what it cannot train on."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from loadtune.errors import TargetError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload.deeplab import DeepLabV3Plus
from loadtune.workload.training import BuiltInStep, build_model, build_step, compute_loss, synthetic_batch

CPU = torch.device("cpu")
MODULE = "tests.targets.handed_over"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def spec(**changes: Any) -> WorkloadSpec:
    return WorkloadSpec(**{"crop_px": 65, "class_count": 3, "backbone": "resnet18", **changes})


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 1))


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def learnable_batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, _ = synthetic_batch(spec(crop_px=17), 4)
    return images, (images[:, 0] > 0).long()


def test_synthetic_batch_is_valid_and_the_same_every_time():
    """Labels lie within the classes, and the global generator is not touched."""
    before = torch.random.get_rng_state()
    images, labels = synthetic_batch(spec(), 2)
    assert (images.dtype, tuple(images.shape)) == (torch.float32, (2, 3, 65, 65))
    assert (labels.dtype, tuple(labels.shape), labels.unique().tolist()) == (
        torch.int64,
        (2, 65, 65),
        [0, 1, 2],
    )
    assert torch.equal(images, synthetic_batch(spec(), 2)[0])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_reduce_the_loss(optimizer, precision):
    """Twenty steps on one batch must learn it a little, or they are no training steps."""
    step = BuiltInStep(small_model(), spec(optimizer=optimizer, precision=precision, learning_rate=0.02), CPU)
    images, labels = learnable_batch()
    before = compute_loss(step.model(images), labels).item()
    for _ in range(20):
        step((images, labels))
    assert compute_loss(step.model(images), labels).item() < 0.9 * before


@pytest.mark.parametrize("channels_last", [False, True])
def test_deeplab_trains_on_a_batch_of_two(channels_last):
    """The whole built-in workload, small: every parameter that has a gradient path moves."""
    step = build_step(spec(channels_last=channels_last), CPU)
    assert isinstance(step, BuiltInStep)
    assert isinstance(step.model, DeepLabV3Plus)
    assert step.model.training
    before = parameters(step.model)
    step(synthetic_batch(spec(), 2))
    after = parameters(step.model)
    assert torch.isfinite(after).all()
    assert (before != after).float().mean() > 0.9
    weight = step.model.classifier.weight if channels_last else step.model.encoder.stem[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) or not channels_last


def test_accumulated_batches_equal_one_large_batch():
    """Without batch statistics, two halves accumulated move the weights as the whole does."""
    model = small_model()
    whole = BuiltInStep(copy.deepcopy(model), spec(), CPU)
    halves = BuiltInStep(copy.deepcopy(model), spec(), CPU, accumulation_steps=2)
    images, labels = learnable_batch()
    for _ in range(2):
        whole((images, labels))
        halves((images[:2], labels[:2]))
        halves((images[2:], labels[2:]))
    assert not torch.equal(parameters(whole.model), parameters(model))
    torch.testing.assert_close(parameters(halves.model), parameters(whole.model), rtol=1e-5, atol=1e-7)


def test_optimizer_waits_for_the_last_accumulated_batch():
    """The weights stand still until then, and the gradients are gone after it."""
    step = BuiltInStep(small_model(), spec(), CPU, accumulation_steps=3)
    before = parameters(step.model)
    for _ in range(2):
        step(learnable_batch())
        assert torch.equal(parameters(step.model), before)
    step(learnable_batch())
    assert not torch.equal(parameters(step.model), before)
    assert all(parameter.grad is None for parameter in step.model.parameters())


def test_ignored_pixels_do_not_train():
    """Whatever the logits say at label 255, the loss is that of the others."""
    logits, targets = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    targets[:, 2:] = 255
    changed = logits.clone()
    changed[:, :, 2:] += torch.randn(2, 3, 2, 4)
    assert compute_loss(changed, targets) == compute_loss(logits, targets)


def test_class_255_of_an_image_is_a_class():
    """ImageNet has one; ignore belongs to masks."""
    assert compute_loss(torch.zeros(1, 1000), torch.tensor([255])).item() == pytest.approx(6.9078, abs=1e-3)


def test_users_model_with_a_dict_output_and_uint8_masks_is_trained():
    """torchvision's segmentation models give {"out": logits}; masks are often bytes."""
    step = build_step(spec(model_target=f"{MODULE}:OutModel"), CPU)
    assert isinstance(step, BuiltInStep)
    before = parameters(step.model)
    step([torch.randn(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.uint8)])
    assert not torch.equal(parameters(step.model), before)


def test_model_handed_over_in_eval_mode_is_trained_in_training_mode():
    """Dropout and batch statistics cost what they cost in training."""
    assert BuiltInStep(small_model().eval(), spec(), CPU).model[0].training


def test_users_own_step_gets_the_batch_as_it_is():
    """It is no factory: nothing is called before the first batch."""
    step = build_step(spec(train_step_target=f"{MODULE}:train_step"), CPU)
    stepped = step.__globals__["STEPPED"]
    stepped.clear()
    batch = {"anything": 1}
    step(batch)
    assert stepped == [batch]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(2, 3, 8, 8), "not float32 2x3x8x8"),
        ({"image": torch.zeros(1)}, "{'image': float32 1}"),
        ((torch.zeros(1), torch.zeros(1), 7), "(float32 1, float32 1, int)"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8)), "float32 2x8x8"),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8).long()), "uint8 2x3x8x8"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8).long()), "do not fit targets int64 2x1x8x8"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 4).long()), "do not fit targets int64 2x4x4"),
    ],
)
def test_other_batches_ask_for_an_own_step(batch, words):
    """The message shows the batch that came, the hint the option that takes any."""
    step = BuiltInStep(small_model(), spec(), CPU)
    with pytest.raises(TargetError, match="--train-step") as caught:
        step(batch)
    assert words in caught.value.what


def test_output_that_is_no_logits_is_refused():
    """A detection model's list of dicts, for one."""
    with pytest.raises(TargetError, match="not logits"):
        compute_loss([{"boxes": torch.zeros(0, 4)}], torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_target": f"{MODULE}:make_dict"}, "gives a dict, not a torch.nn.Module"),
        ({"train_step_target": f"{MODULE}:STEPPED"}, "is a list, not a function of a batch"),
        ({"train_step_target": f"{MODULE}:OutModel"}, "is a type, not a function of a batch"),
    ],
)
def test_targets_of_the_wrong_kind_are_refused(changes, words):
    """What came is named."""
    with pytest.raises(TargetError, match="not a") as caught:
        build_step(spec(**changes), CPU)
    assert words in caught.value.what


def test_learning_rate_is_deeplabs_unless_given():
    """0.007 with SGD; the user's own replaces it."""
    rates = [
        BuiltInStep(small_model(), spec(**changes), CPU)._optimizer.param_groups[0]["lr"]
        for changes in ({}, {"learning_rate": 0.5}, {"optimizer": "adamw"})
    ]
    assert rates == [0.007, 0.5, 0.001]


def test_model_has_the_classes_asked_for():
    """class_count reaches the last layer."""
    assert build_model(spec(class_count=7)).classifier.out_channels == 7


def test_a_loss_handed_over_is_minimised():
    """Any targets will do for it: here images."""
    model = nn.Conv2d(3, 3, 1)
    images = torch.rand(4, 3, 8, 8)
    step = BuiltInStep(model, spec(learning_rate=0.5), CPU, loss=nn.MSELoss())
    first = nn.functional.mse_loss(model(images), images).item()
    for _ in range(20):
        step((images, images))
    assert nn.functional.mse_loss(model(images), images).item() < 0.5 * first


def test_a_loss_needs_a_pair():
    step = BuiltInStep(small_model(), spec(), CPU, loss=nn.MSELoss())
    with pytest.raises(TargetError, match="inputs, targets"):
        step([torch.zeros(1)])


def test_an_optimizer_handed_over_is_made_for_the_copy():
    model = small_model()
    step = BuiltInStep(model, spec(), CPU, optimizer=(torch.optim.NAdam, {"lr": 0.25}))
    assert type(step._optimizer) is torch.optim.NAdam
    assert step._optimizer.param_groups[0]["lr"] == 0.25
    assert step._optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_model_may_be_handed_over_as_a_function():
    step = build_step(spec(), CPU, model=small_model)
    assert isinstance(step, BuiltInStep)
    with pytest.raises(TargetError, match="handed over gives a list"):
        build_step(spec(), CPU, model=list)


def test_evaluating_changes_nothing_and_keeps_no_gradient():
    """Parameters and BatchNorm's statistics stay; the loss that was handed over is asked; a wrong batch is refused."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = []

    def loss(output, targets):
        asked.append((output.requires_grad, model.training))
        return nn.functional.cross_entropy(output, targets)

    step = build_step(
        spec(purpose="evaluate"), CPU, model=model, loss=loss, train_step=lambda batch: asked.append("trained")
    )
    step((torch.randn(4, 3, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64)))
    assert asked == [(False, False)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(TargetError, match="a loss takes"):
        step(torch.zeros(4))


def test_a_step_for_validation_comes_before_the_model():
    seen = []
    build_step(spec(purpose="evaluate"), CPU, model=nn.Linear(1, 1), val_step=seen.append)("batch")
    assert seen == ["batch"]
