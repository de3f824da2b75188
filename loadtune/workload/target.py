"""What has the user handed over? Imports `module:attribute` or `train.py:attribute` and says what it is.

It runs the user's code, in the trial process, and turns whatever that does wrong into one `TargetError`.
"""

import difflib
import importlib
import importlib.util
import operator
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler
from torchvision.datasets import VisionDataset

from loadtune.errors import TargetError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload.segmentation import SegmentationDataset
from loadtune.workload.sources import Pictures

FORM_HINT = "write `package.module:attribute` or `path/to/train.py:attribute`"
GUARD_HINT = (
    'put what the script runs under `if __name__ == "__main__":`, or keep it as it is and call '
    "loadtune.recommend() inside it"
)


PICTURE_SETS = frozenset(
    [
        "VOCSegmentation",
        "SBDataset",
        "Cityscapes",
        "OxfordIIITPet",
        "CocoDetection",
        "ImageFolder",
        "Caltech101",
        "Caltech256",
        "CIFAR10",
        "CIFAR100",
        "Country211",
        "DTD",
        "EuroSAT",
        "FGVCAircraft",
        "Flowers102",
        "Food101",
        "GTSRB",
        "Imagenette",
        "ImageNet",
        "Places365",
        "StanfordCars",
        "STL10",
        "SUN397",
        "SVHN",
    ]
)
"""Classes of torchvision whose samples are (picture, target). Others hold videos, tensors, or several pictures; and a
user's own subclass may do anything."""


class _ImportExpiredError(BaseException):
    """Raised by the timer inside the user's module. No Exception, so that its own handlers let it pass."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """The user's data, and which choices come with it."""

    dataset: Any
    """A map-style or iterable data set."""
    loader: DataLoader[Any] | None
    """The ready DataLoader it came in: its collate_fn, samplers, worker_init_fn, generator, drop_last,
    timeout and multiprocessing_context are to be kept."""
    is_iterable: bool
    sample_count: int | None
    """Samples in one epoch of this process; None where the data set does not know."""
    fixed_axes: tuple[str, ...]
    """What cannot be varied, as "axis: why"."""
    was_handed_over: bool = False
    """It came as an object, whose classes may not be importable by name in a worker that is not forked."""
    is_rank_share: bool = False
    """The sampler deals the data out to ranks, as DistributedSampler does: `sample_count` is the share of one."""
    drop_last: bool = False
    """The loader leaves out what fills no batch; `sample_count` has it still."""


def import_target(reference: str, limit_s: float) -> Any:
    """Import the module or script and return the attribute as it is. Nothing is called.

    The current folder, and a script's own folder, come first on sys.path. A script enters sys.modules under
    its own name, so that DataLoader workers can import it again by name.

    Args:
        reference: `package.module:attribute` or `path/to/train.py:attribute`; the attribute may be dotted.
        limit_s: Seconds the import may take. It holds in the main thread only, which alone receives signals.

    Raises:
        TargetError: A malformed reference, an import that fails or takes too long, a missing attribute.
        ValueError: limit_s is not positive.
    """
    if not limit_s > 0:
        raise ValueError(f"limit_s must be positive, not {limit_s}")
    source, _, attribute = reference.rpartition(":")
    if not source or not attribute:
        raise TargetError(f"{reference!r} names no attribute of a module", FORM_HINT)
    module = _import(source, limit_s)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError as error:
        close = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"did you mean {source}:{close[0]}?" if close else FORM_HINT
        raise TargetError(f"{source} has no attribute {attribute!r}", hint) from error


def load_target(reference: str, limit_s: float) -> Any:
    """Return what a reference stands for: a factory or class is called without arguments, else it is taken.

    Args:
        reference: As for `import_target`.
        limit_s: Seconds the import may take; the factory is not limited.

    Raises:
        TargetError: As for `import_target`, or the factory raised.
    """
    found = import_target(reference, limit_s)
    if isinstance(found, Dataset | DataLoader | nn.Module) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        hint = "it is called without arguments; the trial's log has the whole traceback"
        raise TargetError(f"{reference} raised {_last_line(error)}", hint) from error


def resolve_dataset(reference: str, spec: WorkloadSpec) -> DataSource:
    """Return the data behind a reference: a map-style or iterable Dataset, or a ready DataLoader.

    Args:
        reference: As for `import_target`.
        spec: Only import_limit_s is used.

    Raises:
        TargetError: As for `load_target`, or it gives something else.
    """
    return describe_dataset(load_target(reference, spec.import_limit_s), f"{reference} gives")


def describe_dataset(found: Any, told: str) -> DataSource:
    """Return an object as data, with what comes with it.

    Args:
        found: A map-style or iterable Dataset, a ready DataLoader, or a sequence.
        told: How an error begins: "train.py:make gives", "you handed over".

    Raises:
        TargetError: It is none of these.
    """
    if isinstance(found, DataLoader):
        return _from_loader(found)
    if isinstance(found, IterableDataset):
        return DataSource(found, None, True, _length(found), ("sample order: set by your iterable dataset",))
    is_sequence = hasattr(found, "__getitem__") and not isinstance(found, str | bytes | dict | nn.Module | type)
    if not isinstance(found, Dataset) and not is_sequence:
        raise TargetError(
            f"{told} a {type(found).__qualname__}, which no DataLoader takes",
            "give a map-style or iterable torch.utils.data.Dataset, a DataLoader, or a function for one",
        )
    sample_count = _length(found)
    if sample_count is None:
        raise TargetError(
            f"{told} a {type(found).__qualname__} without a length",
            "define __len__, or derive from torch.utils.data.IterableDataset",
        )
    return DataSource(found, None, False, sample_count, ())


def prepare_pictures(source: DataSource, spec: WorkloadSpec) -> DataSource:
    """Return the data as they are, or a torchvision data set without transforms as samples that can be collated.

    Such a data set yields pictures, which no DataLoader can stack; they are prepared as DeepLab does.

    Args:
        source: The user's data.
        spec: As for `SegmentationDataset`.
    """
    dataset = source.dataset
    is_known = isinstance(dataset, VisionDataset) and type(dataset).__module__.startswith("torchvision.datasets.")
    if source.loader is not None or not is_known or type(dataset).__name__ not in PICTURE_SETS:
        return source
    if dataset.transforms is not None:
        return source
    return replace(source, dataset=SegmentationDataset(Pictures(dataset), spec))


def _from_loader(loader: DataLoader[Any]) -> DataSource:
    dataset = loader.dataset
    is_iterable = isinstance(dataset, IterableDataset)
    sampler = _sampler_of_samples(loader)
    return DataSource(
        dataset,
        loader,
        is_iterable,
        _length(dataset if is_iterable else sampler),
        tuple(_fixed_axes(loader, is_iterable)),
        is_rank_share=not is_iterable and isinstance(getattr(sampler, "num_replicas", None), int),
        drop_last=bool(getattr(loader.batch_sampler, "drop_last", False)),
    )


def _sampler_of_samples(loader: DataLoader[Any]) -> Any:
    """Return what deals the samples out. Under a batch_sampler of the user's own, loader.sampler is torch's default.

    A batch_sampler of another class may sample something else (groups, classes); it counts where it knows of ranks.
    """
    inner = getattr(loader.batch_sampler, "sampler", None)
    is_known = type(loader.batch_sampler) is BatchSampler or hasattr(inner, "num_replicas")
    return inner if is_known and _length(inner) is not None else loader.sampler


def _fixed_axes(loader: DataLoader[Any], is_iterable: bool) -> Iterator[str]:
    """Yield what a ready loader decides. With its own batch_sampler, a DataLoader's batch_size is None."""
    batch_sampler, sampler = loader.batch_sampler, loader.sampler
    if batch_sampler is not None and loader.batch_size is None:
        yield f"batch_size: fixed by your batch_sampler ({type(batch_sampler).__qualname__})"
        yield "sample order: your batch_sampler is kept"
        return
    if loader.batch_size is None:
        yield "batch_size: your loader yields samples as they come (batch_size=None)"
    if is_iterable:
        yield "sample order: set by your iterable dataset"
    elif not _is_default_sampler(sampler):
        yield f"sample order: your sampler is kept ({type(sampler).__qualname__})"


def _is_default_sampler(sampler: Any) -> bool:
    """Say whether this is the sampler that `shuffle=True` makes: any other shuffle of the same samples will do.

    A sequential one is kept: reading in order is what some formats are fast at.
    """
    is_plain = type(sampler) is RandomSampler and not sampler.replacement
    return is_plain and sampler.num_samples == len(sampler.data_source)


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _import(source: str, limit_s: float) -> ModuleType:
    """Import a module by name, or a script by path, within the limit."""
    is_script = source.endswith(".py") or os.sep in source
    script = Path(source).resolve() if is_script else None
    if script is not None and not script.is_file():
        raise TargetError(f"no such file: {source}", FORM_HINT)
    for folder in (Path.cwd(), *([script.parent] if script else [])):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        with _time_limit(limit_s):
            return _run_script(script) if script else importlib.import_module(source)
    except _ImportExpiredError as error:
        raise TargetError(
            f"importing {source} took over {limit_s:g} s{_where(error)}: it seems to start its own training, "
            'having no `if __name__ == "__main__"` guard',
            GUARD_HINT,
        ) from None
    except (Exception, SystemExit) as error:
        raise _import_error(source, error) from error


def _import_error(source: str, error: BaseException) -> TargetError:
    """Say why an import failed, and what is to be done about this kind of failure."""
    hint = "make it importable: `python -c 'import ...'` from this folder shows the same error"
    if isinstance(error, SystemExit):
        hint = GUARD_HINT
    elif isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}."):
        hint = "run loadtune from the folder that holds it, or give the path to the .py file"
    return TargetError(f"importing {source} raised {_last_line(error)}", hint)


def _run_script(path: Path) -> ModuleType:
    """Run a script as a module under its stem, or under a name of ours if the stem is taken (random.py)."""
    name = path.stem if path.stem not in sys.modules else f"loadtune_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Raise _ImportExpiredError in the block after limit_s; handler and timer are then as they were."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise _ImportExpiredError

    handler = signal.signal(signal.SIGALRM, expire)
    timer = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _last_line(error: BaseException) -> str:
    """Return "ValueError: what it said (train.py:12)": the user's own last line, not torch's."""
    message = str(error).splitlines()
    return f"{type(error).__name__}{': ' + message[0] if message else ''}{_where(error)}"


def _where(error: BaseException) -> str:
    """Return " (train.py:12)": the deepest line of the user's first file. Else nothing."""
    ours = {__file__, importlib.__file__}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours and not frame.filename.startswith("<frozen")
    ]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
