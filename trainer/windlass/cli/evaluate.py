"""`windlass evaluate`: measure a model, show a table, and say where the files are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from windlass.cli.show import printable, short, table, write
from windlass.cli.text import run_place
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
from windlass.evaluation.card import FILE as CARD
from windlass.evaluation.record import FILE, Record, notes, samples
from windlass.evaluation.record import table as table_of
from windlass.evaluation.report import FILE as REPORT
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
    base: str | None,
    **settings: Any,
) -> None:
    """Measure and print; a run's report is written again, with the scores. Raises as `evaluate`."""
    place = run_place(model, runs)
    base = base and str(run_place(base.removeprefix("run://"), runs))
    if out is None and "://" in str(place):
        raise WindlassError("ConfigInvalid", f"say where the results of {model} go: --out FOLDER")
    folder = out or next((path for path in (Path(place), Path("runs") / place) if path.is_dir()), Path(place))
    fields = {} if text_field is None else {"textField": text_field}
    sources = [RawData.model_validate({"uri": text} | fields) for text in texts]
    request = Request(suites=suites, texts=sources, text_field=text_field or "text", base=base, **settings)
    found = evaluate(place, request, folder, tokenizer)
    if (folder / "job.yaml").exists():
        from windlass.evaluation.stages import write_pages_of  # its charts take most of a second to import

        write_pages_of(folder)
    header, rows = table_of(found)
    for line in (*(table(header, rows) if rows else []), *notes(found), *_samples(found)):
        write(line)
    write(f"{short(folder.absolute())}: {FILE}, {CARD}, {REPORT}")


def _samples(found: Record) -> Iterator[str]:
    for prompt, texts in samples(found):
        for name, text in texts:
            yield from [f"{name}, after {prompt!r}:", "    " + printable(text).strip().replace("\n", "\n    ")]
