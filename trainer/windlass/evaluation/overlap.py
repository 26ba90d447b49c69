"""Which items of benchmarks occur in training data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from windlass.data.contamination import index_items
from windlass.data.corpus import MANIFEST, Corpus
from windlass.data.deduplication.ngrams import word_hashes
from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.evaluation.near import index_near
from windlass.evaluation.scores import Item
from windlass.spec.job import RawData
from windlass.storage import Storage, shown

NGRAM, COMMON = 13, 10
"""As data.prepare.decontaminate has them: words in a row, and documents from which on they are a common phrase."""
NAMED = 3
"""Documents that are named for an item."""


@dataclass(frozen=True)
class Overlap:
    """Items that share `NGRAM` words in a row with a document of a corpus, one of 8 words or more as a whole, or that
    are near duplicates of a passage."""

    corpus: str
    documents: int
    known: int
    """Items that were looked for."""
    too_short: int
    """Items of so few words that anyone may have written them; they count as clean."""
    found: Mapping[Item, list[str]]
    """Item -> the first of the documents that it is in."""
    near: Mapping[Item, float]
    """Of them those that are nearly there: the share of their words, three in a row, that a passage has."""
    texts: Mapping[Item, str]
    """Of the items found."""


def find_overlap(items: Mapping[Item, str], corpus: str, text_field: str = "text") -> Overlap:
    """Look for items in the training split of a prepared corpus, or in raw sources, whose texts are in `text_field`.

    N-grams in more than `COMMON` documents do not count. Raises WindlassError as `list_files`, `documents` and
    `Corpus.open`.
    """
    known = index_items(((str(number), text) for number, text in enumerate(items.values())), NGRAM)
    similar = index_near(list(items.values()))
    near: dict[int, float] = {}
    near_documents: dict[int, list[str]] = {}
    hits: dict[tuple[int, int], list[str]] = {}
    count = 0
    for name, text in training_documents(corpus, text_field):
        count += 1
        words = word_hashes(text)
        for gram in known.hits(words):
            hits.setdefault(gram, []).append(name)
        for item, share in similar.find(words).items():
            near[item] = max(share, near.get(item, 0.0))
            near_documents.setdefault(item, []).append(name)
    keys = list(items)
    found: dict[Item, list[str]] = {}
    for (size, position), names in hits.items():
        if len(names) <= COMMON:
            named = found.setdefault(keys[int(known.names[known.items[size][position]])], [])
            named += [name for name in names if name not in named]
    only_near = {keys[item]: share for item, share in sorted(near.items()) if keys[item] not in found}
    found |= {keys[item]: names for item, names in near_documents.items() if keys[item] in only_near}
    return Overlap(
        corpus=shown(corpus),
        documents=count,
        known=len(known.names),
        too_short=known.skipped,
        found={item: sorted(found[item])[:NAMED] for item in keys if item in found},
        near=only_near,
        texts={item: items[item] for item in keys if item in found},
    )


def training_documents(uri: str, text_field: str = "text") -> Iterator[tuple[str, str]]:
    """Yield name and text of each document of a prepared corpus's training split, or of files and folders."""
    if not Storage(uri).exists(MANIFEST):
        source = RawData.model_validate({"uri": uri, "textField": text_field})
        for file in list_files(source):
            yield from ((document.name, document.text or "") for document in documents(source, file))
        return
    corpus = Corpus.open(uri)
    split, tokenizer = corpus.split("train"), corpus.tokenizer()
    start = 0
    for number, end in enumerate(split.document_ends().tolist(), start=1):
        yield f"{shown(uri)}, document {number:,}", tokenizer.decode(split.read(start, end - 1).tolist())
        start = end
