"""`windlass evaluate`: measure a model, show a table, and say where the files are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windlass.cli.show import short, table, write
from windlass.cli.text import run_place
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
from windlass.evaluation.card import FILE as CARD
from windlass.evaluation.record import FILE, HEADER, notes, rows
from windlass.spec.job import RawData


def show_evaluation(
    model: str,
    *,
    runs: Path,
    suites: Sequence[str],
    texts: Sequence[str],
    text_field: str | None,
    out: Path | None,
    tokenizer: str | None,
    **settings: Any,
) -> None:
    """Measure and print; a run's report is written again, with the scores. Raises as `evaluate`."""
    place = run_place(model, runs)
    if out is None and "://" in str(place):
        raise WindlassError("ConfigInvalid", f"say where the results of {model} go: --out FOLDER")
    folder = out or next((path for path in (Path(place), Path("runs") / place) if path.is_dir()), Path(place))
    fields = {} if text_field is None else {"textField": text_field}
    sources = [RawData.model_validate({"uri": text} | fields) for text in texts]
    request = Request(suites=suites, texts=sources, text_field=text_field or "text", **settings)
    found = evaluate(place, request, folder, tokenizer)
    files = [FILE, CARD]
    if (folder / "job.yaml").exists():
        from windlass.evaluation.report import write_report  # its charts take most of a second to import
        from windlass.evaluation.stages import write_pages_of

        files.append(write_report(folder).name)
        write_pages_of(folder)
    for line in (*table(HEADER, list(rows(found))), *notes(found)):
        write(line)
    write(f"{short(folder.absolute())}: {', '.join(files)}")
