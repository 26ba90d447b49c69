"""Trained models as commands use them: text that continues a prompt, and weights for others."""

import sys
from pathlib import Path
from typing import Any

from windlass.cli.show import printable, short, write
from windlass.engine.runs import generate_text, load_run
from windlass.errors import WindlassError


def stream(run: str, prompt: str, *, runs: Path, **sampling: Any) -> None:
    """Print the prompt and what follows it, piece by piece; raw where the output is no terminal."""
    if prompt == "-":
        prompt = sys.stdin.read()
    shown = printable if sys.stdout.isatty() else str
    sys.stdout.write(shown(prompt))
    for piece in generate_text(run_folder(run, runs), prompt, **sampling):
        sys.stdout.write(shown(piece))
        sys.stdout.flush()
    write()


def export_run(run: str, folder: Path, *, runs: Path) -> None:
    """Write a run's newest weights and its tokenizer to a new folder, in Hugging Face layout."""
    from windlass.models.huggingface import export_model

    if folder.exists() and any(folder.iterdir()):
        raise WindlassError("ConfigInvalid", f"{folder} is there already and not empty; choose a new folder")
    model, tokenizer = load_run(run_folder(run, runs))
    export_model(model, tokenizer, folder)
    write(f"{short(folder.absolute())}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


def run_folder(run: str, runs: Path) -> Path:
    """The folder of a run that is given by its name or by its folder."""
    by_name = runs / run
    return by_name if (by_name / "job.yaml").exists() else Path(run)
