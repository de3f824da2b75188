"""Does every layout go all the way, from a folder to a trial with workers that completes?"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from torchvision.datasets import ImageFolder, VOCSegmentation

from loadtune.advice.search import Leg
from loadtune.dataset.detect import list_dataset
from loadtune.engine.launcher import Launcher
from loadtune.options import ProbeOptions
from loadtune.payload import share_objects
from loadtune.planning import workload_to_look_at
from loadtune.records.measurement import TrialState
from loadtune.records.messages import CacheTask, InspectTask, Sources
from tests.integration.conftest import make_runner, make_spec
from tests.layouts import MAKERS


def is_photograph(path: str) -> bool:
    return path.endswith(".jpg")


VOC = Path(__file__).resolve().parents[1] / "data" / "voc"


@pytest.mark.parametrize("made", MAKERS)
def test_every_layout_trains(launcher: Launcher, tmp_path: Path, monkeypatch: Any, made: str) -> None:
    """Listed, surveyed, read once, trained on by two workers; no sample is broken, and labels have their classes."""
    make, layout, class_count = MAKERS[made]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    make(tmp_path / "set")
    listing = list_dataset(tmp_path / "set")
    assert listing.layout == layout
    try:
        index_path = None if listing.index is None else listing.index.shared_path
        sources = Sources(index_path=index_path)
        options = ProbeOptions(dataset=str(tmp_path / "set"))
        workload = workload_to_look_at(options, None, listing.masks, listing.stored, listing.sample_count)
        runner = make_runner(launcher, sources)
        looked = runner.inspect(InspectTask(workload=workload, sources=sources, batch_size=2))
        assert (looked.class_count, looked.unreadable, looked.is_prepared) == (class_count, (), True)
        assert looked.masks is not None
        workload = msgspec.structs.replace(
            workload, masks=looked.masks, class_count=class_count, crop_px=33, base_size_px=33
        )
        read = runner.read_files(CacheTask(workload=workload, sources=sources, order_seed=0, limit_s=20.0))
        assert read.is_complete
        spec = msgspec.structs.replace(make_spec("", num_workers=2, batch_size=2), workload=workload)
        leg = Leg(settings=spec.settings, role="grid")
        result = runner.run(spec, leg, 1, time.monotonic() + 60.0)
    finally:
        if listing.index is not None:
            listing.index.close()
    assert result.state is TrialState.COMPLETE, result.failure
    assert result.measurement is not None
    assert result.measurement.bad_samples == ()
    assert result.measurement.samples_seen > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: VOCSegmentation(str(VOC), year="2012", image_set="train"),
        lambda: ImageFolder(
            str(VOC / "VOCdevkit/VOC2012"), is_valid_file=lambda path: path.endswith(".jpg"), allow_empty=True
        ),
    ],
    ids=["VOCSegmentation", "ImageFolder"],
)
def test_data_sets_of_torchvision_train_as_they_are_handed_over(launcher: Launcher, make: Any) -> None:
    with ExitStack() as stack:
        sources = Sources(payload_path=share_objects({"dataset": make()}, stack))
        workload = workload_to_look_at(ProbeOptions(dataset="x"), None)
        runner = make_runner(launcher, sources)
        looked = runner.inspect(InspectTask(workload=workload, sources=sources, batch_size=2))
        assert looked.is_prepared
        workload = msgspec.structs.replace(workload, class_count=looked.class_count or 2, crop_px=33, base_size_px=33)
        spec = msgspec.structs.replace(make_spec("", num_workers=1, batch_size=2), workload=workload)
        result = runner.run(spec, Leg(settings=spec.settings, role="grid"), 1, time.monotonic() + 60.0)
        assert result.state is TrialState.COMPLETE, result.failure
