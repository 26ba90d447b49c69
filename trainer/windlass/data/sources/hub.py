"""Datasets of the Hugging Face hub, or saved with their `save_to_disk`, by the library `datasets`.

hf-datasets://org/name?config=NAME&split=train&revision=REVISION, or hf-datasets:///folder of a saved one.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

from windlass.data.sources.files import SourceFile
from windlass.errors import WindlassError
from windlass.storage import Storage

SCHEME = "hf-datasets://"
_OPTIONS = {"config", "split", "revision"}


def is_dataset(uri: str) -> bool:
    """Whether the URI names a dataset."""
    return uri.startswith(SCHEME)


def dataset_file(uri: str) -> SourceFile:
    """The dataset as one file of as many "bytes" as it has rows. DataNotFound where it is not to be had."""
    rows = _load(uri)
    return SourceFile(_Named(uri), "", len(rows), str(rows._fingerprint))


def rows(file: SourceFile, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows [start, stop) with their numbers from 1."""
    table = _load(file.storage.uri)
    for number in range(start, min(stop, len(table))):
        yield number + 1, table[number]


class _Named(Storage):
    """A storage in name only: datasets come through their own library."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.patience = 0.0
        self.is_local = False
        self.path = uri

    def __reduce__(self) -> tuple[type["_Named"], tuple[str]]:  # type: ignore[override]
        return _Named, (self.uri,)


@lru_cache(maxsize=4)
def _load(uri: str) -> Any:
    import datasets

    parts = urlsplit(uri)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if unknown := options.keys() - _OPTIONS:
        raise WindlassError(
            "ConfigInvalid", f"{uri}: no option {', '.join(unknown)}; there are config, split, revision"
        )
    name, split = parts.netloc + parts.path, options.get("split", "train")
    try:
        if parts.netloc:
            return datasets.load_dataset(name, options.get("config"), split=split, revision=options.get("revision"))
        saved = datasets.load_from_disk(name)
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    except (OSError, ValueError, KeyError) as error:  # what the library raises for names, networks and splits
        message = f"{uri}: the dataset cannot be loaded; check name, config, split, token and network"
        raise WindlassError("DataNotFound", f"{message} ({type(error).__name__}: {error})") from error
