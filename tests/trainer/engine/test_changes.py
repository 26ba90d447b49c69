"""What a run that has trained is continued with, and what it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from windlass.engine.changes import refuse_changes
from windlass.engine.run_folder import RunFolder
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage
from windlass.training.commits import CommitLog

MakeJob = Callable[..., LLMTrainingJob]
PAIRS = (
    "task=Preference",
    "data={examples: {sources: [{uri: pairs.jsonl}]}, template: ChatML}",
    "evaluation.prompts=[]",
)


@pytest.fixture
def trained(tmp_path: Path, tiny_job: MakeJob) -> RunFolder:
    """The folder of a run that has begun to train."""
    run = RunFolder(tmp_path / "tiny")
    CommitLog(Storage(run.checkpoints_uri(tiny_job()))).begin_attempt(0, {})
    return run


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (["model.lora={}"], ["model.lora={dora: true}"], r"  spec\.model\.lora\.dora: was False, now True\n"),
        (["model.lora={}"], [], r"  spec\.model\.lora: was \{.*\}, now None\n"),
        (
            PAIRS,
            [*PAIRS, "training.preference={beta: 0.2}"],
            r"  spec\.training\.preference\.beta: was 0\.1, now 0\.2\n",
        ),
        (
            PAIRS,
            [PAIRS[0], PAIRS[1].replace("pairs", "more"), PAIRS[2]],
            r"sources\[0\]\.uri: was 'pairs\.jsonl', now 'more",
        ),
    ],
)
def test_what_would_train_something_else_is_refused_by_its_field(
    trained: RunFolder, tiny_job: MakeJob, before: list[str], now: list[str], message: str
) -> None:
    with pytest.raises(WindlassError, match=message) as refused:
        refuse_changes(tiny_job(*before), tiny_job(*now), trained)
    assert str(refused.value).count("was ") == 2, "of the field, and of the run"
    assert str(refused.value).endswith("Undo the change, give this run another --name, or start over with --restart.")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["training.microBatchSize=2"], ["training.microBatchSize=4"]),
        (["model.lora={}"], ["model.lora={dora: false}"]),
        (PAIRS, [*PAIRS, "training.preference={beta: 0.1}"]),
        ([*PAIRS, "training.preference={}"], PAIRS),
    ],
)
def test_what_trains_the_same_goes_on(trained: RunFolder, tiny_job: MakeJob, before: list[str], now: list[str]) -> None:
    refuse_changes(tiny_job(*before), tiny_job(*now), trained)


def test_a_run_that_has_not_trained_takes_a_job_that_was_mended(tmp_path: Path, tiny_job: MakeJob) -> None:
    refuse_changes(tiny_job(), tiny_job("training.seed=2"), RunFolder(tmp_path / "tiny"))
