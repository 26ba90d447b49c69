"""One unit of work: its documents read, cleaned, hashed and tokenized, and what came of it kept.

In the working folder: N.tokens has the tokens of all its documents, N.npz a row for each of them, N.json the counts.
The last is written last, so a unit with counts is whole.
"""

import json
import unicodedata
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import TypeAdapter

from windlass.data.cleaning import language
from windlass.data.cleaning.steps import steps
from windlass.data.contamination import TestSets, read_test_sets
from windlass.data.corpus import TokenType
from windlass.data.deduplication.minhash import band_hashes, bands_of, signature
from windlass.data.deduplication.ngrams import Hashes, ngram_hashes, word_hashes
from windlass.data.preparation.counts import Counts, Step
from windlass.data.preparation.units import Unit
from windlass.data.preparation.workspace import Workspace
from windlass.data.sources.documents import documents
from windlass.data.sources.files import require_unchanged
from windlass.data.tokenizers import Tokenizer, load_tokenizer
from windlass.spec.job import Decontaminate, NearDuplicates, Prepare

_SIGNATURES = 4096  # that wait to become bands
NOT_UTF8, EMPTY = "not UTF-8", "empty"
WHOLE, FIRST_PART, LAST_PART = 0, 1, 2
"""What a row is: a document, or a part of the only one of its source, which is cut in two."""


@dataclass(frozen=True)
class Recipe:
    """What every unit needs to know; sent to the processes with each."""

    spec: Prepare
    tokenizer: str
    """Name, or URI of its files."""
    token_type: TokenType
    workspace: str
    """URI."""
    mark: str
    """A file in the working folder, which a process sees unless that path is another folder on its machine."""


@dataclass
class Rows:
    """A row for each document of a unit."""

    hashes: Hashes
    """Of the texts without white space."""
    lengths: NDArray[np.int64]
    """Tokens, the one that ends the document included."""
    bytes: NDArray[np.int64]
    """Of UTF-8 text."""
    parts: NDArray[np.uint8]
    """WHOLE, FIRST_PART or LAST_PART."""


class _Table:
    """Rows as they come, in little memory."""

    def __init__(self, near: NearDuplicates | None) -> None:
        self._numbers = {name: array("Q") for name in ("hashes", "lengths", "bytes", "parts")}
        self._near = near
        self._signatures: list[NDArray[np.uint32]] = []
        self._bands: list[Hashes] = []
        self._zlib = zlib.compressobj(1)
        self._names = bytearray()
        self._hits: list[tuple[int, int, int]] = []  # row, words in a row, position among the test sets' n-grams

    def __len__(self) -> int:
        return len(self._numbers["hashes"])

    def add(self, name: str, **numbers: int) -> None:
        for column, number in numbers.items():
            self._numbers[column].append(number)
        self._names += self._zlib.compress(json.dumps(name).encode() + b"\n")

    def add_hits(self, hits: list[tuple[int, int]]) -> None:
        self._hits += [(len(self), *hit) for hit in hits]

    def add_signature(self, least: NDArray[np.uint32]) -> None:
        self._signatures.append(least)
        if len(self._signatures) == _SIGNATURES:
            self._to_bands()

    def columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "hashes": np.array(self._numbers["hashes"], np.uint64),
            "lengths": np.array(self._numbers["lengths"], np.int64),
            "bytes": np.array(self._numbers["bytes"], np.int64),
            "parts": np.array(self._numbers["parts"], np.uint8),
            "names": np.frombuffer(bytes(self._names) + self._zlib.flush(), np.uint8),
            "hits": np.array(self._hits, np.int64).reshape(-1, 3),
        }
        if self._near:
            self._to_bands()
            columns |= {f"band-{number}": band for number, band in enumerate(np.concatenate(self._bands, axis=1))}
        return columns

    def _to_bands(self) -> None:
        assert self._near
        bands = bands_of(self._near.permutations, self._near.threshold)
        signatures = np.array(self._signatures, np.uint32).reshape(-1, self._near.permutations)
        self._bands.append(band_hashes(signatures, bands))
        self._signatures = []


def run_unit(work: tuple[Recipe, Unit]) -> tuple[int, Counts]:
    """Do the unit and return its number and counts.

    Errors as of `documents`; DataCorrupt for a file that changes, AccessDenied where the working folder is another.
    """
    recipe, unit = work
    workspace, counts = Workspace(recipe.workspace), Counts()
    workspace.require(recipe.mark)
    encode = _Encoder(recipe)
    table = _Table(_near(recipe))
    with workspace.writing(f"{unit.number:06}.tokens") as tokens:
        for name, text, part, digest in _parts(recipe, unit, counts):
            encoded = encode(text)
            tokens.write(encoded.data)
            counts.tokens += len(encoded)
            _compare(table, recipe, text, digest)
            table.add(name, hashes=digest, lengths=len(encoded), bytes=_size(text), parts=part)
        for source_file in dict.fromkeys(piece.file for piece in unit.pieces):
            require_unchanged(source_file)
    with workspace.writing(f"{unit.number:06}.npz") as columns:
        np.savez(columns, **table.columns())
    with workspace.writing(f"{unit.number:06}.json") as file:
        file.write(json.dumps(asdict(counts)).encode())
    return unit.number, counts


def read_counts(workspace: Workspace, unit: Unit) -> Counts:
    """Return the counts of a unit that was done."""
    return TypeAdapter(Counts).validate_json(workspace.file(f"{unit.number:06}.json").read_bytes())


def read_columns(workspace: Workspace, unit: Unit) -> Any:
    """Return the unit's columns, each read when it is asked for: those of Rows, names, hits and band-N."""
    return np.load(workspace.file(f"{unit.number:06}.npz"))


def read_rows(workspace: Workspace, unit: Unit) -> Rows:
    """Return the unit's rows."""
    with read_columns(workspace, unit) as columns:
        return Rows(columns["hashes"], columns["lengths"], columns["bytes"], columns["parts"])


def read_names(workspace: Workspace, unit: Unit) -> list[str]:
    """Return the name of each row's document."""
    with read_columns(workspace, unit) as columns:
        lines = zlib.decompress(columns["names"].tobytes()).splitlines()
    return [json.loads(line) for line in lines]


def read_tokens(workspace: Workspace, unit: Unit, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the unit's tokens, mapped, [tokens]."""
    path = workspace.file(f"{unit.number:06}.tokens")
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def text_hash(text: str) -> int:
    """Return a hash of the text but for white space and Unicode normalisation, 64 bits."""
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFC", text).split())
    return int(xxhash.xxh3_64_intdigest(text.encode().translate(None, b" \t\n\r\v\f\x1c\x1d\x1e\x1f")))


def _parts(recipe: Recipe, unit: Unit, counts: Counts) -> Iterator[tuple[str, str, int, int]]:
    """Yield (name, text, part, hash of the document) of each row: a source's only document comes in two parts."""
    usable = _usable(recipe, unit, counts)
    head = [document for document in (next(usable, None), next(usable, None)) if document]
    if unit.alone and len(head) == 1:
        name, text = head[0]
        digest = text_hash(text)
        cut = max(1, int(len(text) * (1 - recipe.spec.validation_fraction)))
        yield name, text[:cut], FIRST_PART, digest
        if text[cut:]:
            yield name, text[cut:], LAST_PART, digest
        return
    for name, text in chain(head, usable):
        yield name, text, WHOLE, text_hash(text)


def _usable(recipe: Recipe, unit: Unit, counts: Counts) -> Iterator[tuple[str, str]]:
    """Yield name and cleaned text of the documents that are left, and count the others."""
    source = recipe.spec.sources[unit.source]
    cleaning = steps(recipe.spec.clean) if recipe.spec.clean else {}
    counts.steps = {name: Step() for name in (NOT_UTF8, EMPTY, *cleaning)}
    for piece in unit.pieces:
        for document in documents(source, piece.file, piece.part):
            counts.documents += 1
            text = document.text
            if text is None:
                counts.steps[NOT_UTF8].remove(document.name, 0)
                continue
            size = _size(text)
            counts.bytes += size
            if not text.strip():
                counts.steps[EMPTY].remove(document.name, size)
                continue
            for name, clean in cleaning.items():
                cleaned = clean(text)
                if cleaned is None or not cleaned.strip():
                    counts.steps[name].remove(document.name, size)
                    break
                if cleaned != text:
                    after = _size(cleaned)
                    counts.steps[name].change(size - after)
                    text, size = cleaned, after
            else:
                counts.kept += 1
                counts.kept_bytes += size
                if recipe.spec.clean and recipe.spec.clean.languages:
                    counts.languages[language.detected(text)[0]] += 1
                yield document.name, text


def _near(recipe: Recipe) -> NearDuplicates | None:
    return recipe.spec.deduplicate.near if recipe.spec.deduplicate else None


def _compare(table: _Table, recipe: Recipe, text: str, digest: int) -> None:
    """Add what the next row's text is compared by with others and with test sets."""
    near, decontaminate = _near(recipe), recipe.spec.decontaminate
    if not near and not decontaminate:
        return
    words = word_hashes(text)
    if decontaminate:
        table.add_hits(test_sets(recipe.spec).hits(words))
    if near:
        ngrams = ngram_hashes(words, near.ngram)
        # A text without words has no n-grams: it is near to what is the same.
        table.add_signature(signature(ngrams if len(ngrams) else np.array([digest], np.uint64), near.permutations))


class _Encoder:
    """Texts to tokens of the corpus's type, each with the one that ends a document."""

    def __init__(self, recipe: Recipe) -> None:
        self._tokenizer = _tokenizer(recipe.tokenizer)
        self._special = recipe.spec.special_tokens
        self._dtype = np.dtype(recipe.token_type).newbyteorder("<")

    def __call__(self, text: str) -> NDArray[Any]:
        tokens = self._tokenizer.encode(text, special_tokens=self._special)
        encoded = np.empty(len(tokens) + 1, self._dtype)
        encoded[:-1] = tokens
        encoded[-1] = self._tokenizer.end_of_document
        return encoded


def test_sets(spec: Prepare) -> TestSets:
    """Return the n-grams of the test sets, read once in a process."""
    assert spec.decontaminate
    return _read_test_sets(spec.decontaminate.model_dump_json())


@lru_cache(maxsize=1)
def _read_test_sets(settings: str) -> TestSets:
    decontaminate = Decontaminate.model_validate_json(settings)
    return read_test_sets(decontaminate.against, decontaminate.ngram)


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(name)


def _size(text: str) -> int:
    """Return the text's UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())
