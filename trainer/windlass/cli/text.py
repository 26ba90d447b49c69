"""Trained models as commands use them: text that continues a prompt, and weights for others."""

import sys
from pathlib import Path
from typing import Any

from windlass.cli.show import printable, short, write
from windlass.engine import runs as engine


def stream(run: str, prompt: str, *, runs: Path, **sampling: Any) -> None:
    """Print the prompt and what follows it, piece by piece; raw where the output is no terminal."""
    if prompt == "-":
        prompt = sys.stdin.read()
    shown = printable if sys.stdout.isatty() else str
    pieces = engine.generate_text(run_place(run, runs), prompt, **sampling)
    for number, piece in enumerate(pieces):
        sys.stdout.write(shown(piece if number else prompt + piece))
        sys.stdout.flush()
    write()


def classify(run: str, texts: list[str], *, runs: Path) -> None:
    """Print each text's likeliest label, its probability and the text."""
    lines = [line for text in texts for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    for text, found in zip(lines, engine.classify_texts(run_place(run, runs), lines), strict=True):
        label = max(found, key=lambda name: found[name])
        write(f"{label:<12} {found[label]:6.1%}  {printable(text)}")


def export_run(run: str, folder: Path, *, runs: Path, adapter: bool = False) -> None:
    """Write a run's newest weights and its tokenizer, or its adapters alone, to a new folder."""
    write_to = engine.export_run_adapter if adapter else engine.export_run
    write_to(run_place(run, runs), folder)
    write(f"{short(folder.absolute())}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


def run_place(run: str, runs: Path) -> Path | str:
    """The place of a run that is given by its name, its folder or its URI."""
    by_name = runs / run
    return by_name if (by_name / "job.yaml").exists() else run
