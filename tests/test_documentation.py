"""What the documentation says is so: its jobs are valid, the files it names exist, the metrics it lists are served."""

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from windlass.spec.loading import load_job_text, load_stages_text
from windlass.training.sinks import PrometheusSink

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOBS = [
    pytest.param(job, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, job in enumerate(re.findall(r"```yaml\n(apiVersion:.*?)```", page.read_text(), re.DOTALL))
]


SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=[path.stem for path in SAMPLES])
def test_a_sample_is_valid_and_on_a_cluster_too_where_it_says_kubectl(sample: Path) -> None:
    text = sample.read_text()
    load_stages_text(text, cluster="kubectl apply" in text)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_in_the_documentation_is_valid(job: str) -> None:
    load_job_text(job)


def test_the_files_of_where_things_are_exist() -> None:
    page = (ROOT / "docs/where.md").read_text()
    named = set(re.findall(r"`([a-z_]+/[\w/]+\.(?:py|html)|[a-z]+\.py)`", page))
    assert len(named) > 20
    missing = [name for name in named if not any((ROOT / base / name).exists() for base in ("trainer/windlass", "."))]
    assert missing == []


def test_the_page_of_metrics_lists_what_a_rank_serves() -> None:
    sink = PrometheusSink(rank=0, job="demo")
    families = text_string_to_metric_families(_metrics(sink))
    served = {family.name + "_total" * (family.type == "counter") for family in families}
    sink.close()
    page = (ROOT / "docs/metrics.md").read_text()
    listed = set(re.findall(r"`(windlass_\w+)`", page))
    assert listed == {name for name in served if name.startswith("windlass_") and not name.endswith("_created")}


def _metrics(sink: PrometheusSink) -> str:
    with urllib.request.urlopen(f"http://{sink.address}/metrics", timeout=10) as response:
        return str(response.read().decode())
