"""`windlass plan`: what a run would be on this machine."""

from pathlib import Path

from windlass.cli.show import write
from windlass.data.corpus import Corpus
from windlass.data.tokenizers import Tokenizer
from windlass.engine.machine import this_machine
from windlass.engine.preparation import corpora_folder, corpus_name, find_model, plan_lines, plan_on
from windlass.errors import WindlassError
from windlass.spec.checks import ranks
from windlass.spec.job import LLMTrainingJob


def show_plan(job: LLMTrainingJob, runs: Path) -> None:
    """Print the plan; the corpus is looked at where it is prepared already. Raises ConfigInvalid, DataNotFound."""
    machine = this_machine()
    world_size = machine.check_ranks(ranks(job.spec))
    base, config, tokenizer = find_model(job, runs)
    plan = plan_on(machine, job, world_size, config, _train_tokens(job, tokenizer, corpora_folder(runs)))
    for line in plan_lines(plan, base):
        write(line)


def _train_tokens(job: LLMTrainingJob, tokenizer: Tokenizer, prepared: Path) -> int | None:
    """Tokens to train on, or None for a corpus that the run would prepare first."""
    data = job.spec.data
    uris = [source.uri for source in data.train] or [str(prepared / corpus_name(data, tokenizer))]
    try:
        return sum(Corpus.open(uri).split("train").tokens for uri in uris)
    except WindlassError as error:
        if error.reason == "DataNotFound" and data.prepare is not None:
            return None
        raise
