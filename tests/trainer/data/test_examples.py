"""Examples as they are read: what counts as a label."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from windlass.data.examples import labelled, split
from windlass.errors import WindlassError
from windlass.spec.job import Examples, ExampleSource


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_numbers_are_labels(ending: str, tmp_path: Path) -> None:
    records = [{"text": f"text {n}", "label": n % 2} for n in range(20)]
    file = tmp_path / f"data.{ending}"
    match ending:
        case "jsonl":
            file.write_text("\n".join(map(json.dumps, records)))
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file)
        case "csv":
            file.write_text("\n".join(["text,label", *(f"{r['text']},{r['label']}" for r in records)]))
    spec = Examples(sources=[ExampleSource(uri=str(file))])
    splits, counts = split(spec, labelled(spec, ["0", "1"]), ["0", "1"], seed=1)
    assert counts.splits == {"train": 18, "validation": 2}
    assert all(example.label == str(int(example.text[5:]) % 2) for part in splits.values() for example in part)


def test_examples_need_fields(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a text")
    with pytest.raises(WindlassError, match=r"notes\.txt has no records with fields; give a \.jsonl"):
        list(labelled(Examples(sources=[ExampleSource(uri=str(tmp_path))]), ["a", "b"]))
