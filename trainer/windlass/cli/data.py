"""`windlass data`: prepare the corpus of a job, and look into a corpus."""

from pathlib import Path

from windlass.cli.show import printable, warn, write
from windlass.data.corpus import Corpus
from windlass.data.inspect import describe, verify
from windlass.data.inspect import samples as sample_lines
from windlass.data.tokenizers import load_tokenizer
from windlass.engine.preparation import corpora_folder, open_corpora
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import tokenizer_name


def prepare(job: LLMTrainingJob, runs: Path) -> None:
    """Make the job's corpus where it is missing or its inputs changed, and describe it."""
    if job.spec.data.prepare is None:
        raise WindlassError("ConfigInvalid", "spec.data.prepare: missing; it says what to make a corpus of")
    corpora, _ = open_corpora(job, corpora_folder(runs), load_tokenizer(tokenizer_name(job.spec)), warn)
    for line in describe(corpora[0][0]):
        write(line)


def inspect(uri: str, *, samples: int, sequence_length: int, seed: int, check: bool) -> None:
    """Print counts and samples of a corpus; with `check`, verify its hashes first. Raises DataCorrupt."""
    corpus = Corpus.open(uri)
    if check:
        write(f"verified    {verify(corpus):,} bytes match their hashes")
    for line in describe(corpus):
        write(line)
    if samples:
        write()
        for line in sample_lines(corpus, sequence_length=sequence_length, seed=seed, count=samples):
            write(printable(line))
