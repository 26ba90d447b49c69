"""Options that several modules' commands have."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(help="The job file.", metavar="FILE", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Replace a value of the job, as in training.maxSteps=100. Repeatable."
    ),
]
