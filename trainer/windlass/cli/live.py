"""A run on the screen while it goes on: a live panel on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterable

from windlass.cli.progress import Progress, Record, lines
from windlass.cli.show import write

LINE_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


def show(records: Iterable[Record], progress: Progress) -> None:
    """Show records as they come, until they end; `progress` has taken each of them."""
    if not sys.stdout.isatty():
        _lines(records, progress)
        return

    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(progress, console=console, refresh_per_second=4, transient=True):
        for record in records:
            for line in lines(record):
                console.print(line, markup=False, soft_wrap=True)


def _lines(records: Iterable[Record], progress: Progress) -> None:
    shown = time.monotonic()
    for record in records:
        for line in lines(record):
            write(line)
        if record["kind"] == "checkpoint":
            write(f"step {record['step']}  checkpoint saved")
        if record["kind"] == "train" and time.monotonic() - shown >= LINE_SECONDS:
            shown = time.monotonic()
            write(progress.line())
