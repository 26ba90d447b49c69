"""A run whose corpus and checkpoints are in a real object store, that of AWS_ENDPOINT_URL, by the commands alone."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import s3fs

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("AWS_ENDPOINT_URL"),
        reason="needs an S3 server: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
]

STEPS = 200
"""So many that the run still trains when its first checkpoint has been told of."""
JOB = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {{name: plays}}
spec:
  model: {{preset: gpt2-nano, config: {{layers: 1, heads: 2, hiddenSize: 16, contextLength: 16}}}}
  data:
    prepare: {{sources: [{{uri: "{bucket}/raw/*.txt"}}]}}
    train: [{{uri: "{bucket}/corpus"}}]
  training: {{maxSteps: {steps}, globalBatchSize: 4, optimizer: {{learningRate: 1e-2}}}}
  checkpoints: {{uri: "{bucket}/checkpoints", everySteps: 20}}
  evaluation: {{everySteps: 40, maxTokens: 256}}
  workers: {{replicas: 2}}
"""


@pytest.fixture(scope="module")
def s3() -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture(scope="module")
def bucket(s3: s3fs.S3FileSystem) -> str:
    """A new bucket with a play in it."""
    name = f"windlass-{uuid.uuid4().hex[:12]}"
    s3.mkdir(name)
    s3.pipe_file(f"{name}/raw/play.txt", b"First Citizen: Speak, speak.\n" * 400)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def place(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "job.yaml").write_text(JOB.format(bucket=bucket, steps=STEPS))
    return folder


def windlass(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "windlass", *arguments],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_wrong_key_is_one_clear_line(place: Path, bucket: str) -> None:
    refused = windlass(place, "data", "prepare", "job.yaml", AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert "AccessDenied" in line
    assert bucket in line
    assert "wrong" not in line


def test_a_run_stopped_in_the_middle_continues_from_its_checkpoint_in_the_bucket(
    place: Path, bucket: str, s3: s3fs.S3FileSystem
) -> None:
    command = [sys.executable, "-m", "windlass", "run", "job.yaml"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        assert first.stdout is not None
        seen: list[str] = []
        for line in first.stdout:
            seen.append(line)
            if "checkpoint saved" in line:
                first.send_signal(signal.SIGINT)
                break
        seen += first.stdout.readlines()
    assert first.returncode == 130, "".join(seen)

    second = windlass(place, "run", "job.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Continuing from the checkpoint of step" in second.stdout
    records = [json.loads(line) for line in (place / "runs/plays/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, STEPS + 1))
    assert s3.glob(f"{bucket}/checkpoints/step-*/commit.json")
    assert not (place / "runs/plays/checkpoints").exists()
    assert not (place / "corpora").exists()


def test_the_trained_model_writes_and_its_corpus_matches_its_hashes(place: Path, bucket: str) -> None:
    written = windlass(place, "generate", "plays", "--prompt", "First", "--max-tokens", "8")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("First")
    inspected = windlass(place, "data", "inspect", f"{bucket}/corpus", "--verify")
    assert inspected.returncode == 0, inspected.stderr
