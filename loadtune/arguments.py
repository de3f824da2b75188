"""What can be said on the command line by more than one command? Each argument once, with its help."""

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[
    str,
    typer.Option(
        help="Folder of images and masks, or your own data: package.module:factory, path/to/train.py:factory.",
        show_default=False,
    ),
]
StepTime = Annotated[float | None, typer.Option(help="Replay a GPU that takes SECONDS a step at your batch size.")]
Device = Annotated[str, typer.Option(help="auto, cuda, cuda:N, cpu, replay:FILE, or replay:GPU such as replay:A100.")]
Crop = Annotated[int | None, typer.Option(help="Side of the training crop in pixels.  [513; on a CPU 129]")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Batches = Annotated[
    str | None, typer.Option(help="Batch sizes, the smallest is yours: 16 or 16,32.  [16 and larger; on a CPU 2]")
]
Baseline = Annotated[
    str | None, typer.Option(help="What you run today: num_workers=2,batch_size=16.  [torch's suggestion]")
]
JsonPath = Annotated[str | None, typer.Option("--json", help="Also write the JSON here; - prints it instead of text.")]
Redact = Annotated[bool, typer.Option("--redact", help="Leave home path, user and host name out of what is written.")]
Emit = Annotated[
    str | None, typer.Option(help="Print only the settings, for configuration files: python, yaml, hydra or json.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Layout = Annotated[str | None, typer.Option(help="Layout of the data set, where it is ambiguous.")]
Split = Annotated[str | None, typer.Option(help="Split of the data set.  [train, if there is one]")]
Model = Annotated[str | None, typer.Option(help="Your model: package.module:factory.  [DeepLabv3+]")]
TrainStep = Annotated[
    str | None, typer.Option(help="Your training step: package.module:function, called with each batch.")
]
Backbone = Annotated[str, typer.Option(help="resnet18, resnet34, resnet50 or resnet101.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.  [bf16 where the GPU has it]")]
Out = Annotated[Path | None, typer.Option(help="Folder for the reports.  [a new one under reports/]")]
