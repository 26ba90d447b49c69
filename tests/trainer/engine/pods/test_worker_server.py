"""What a worker pod serves of its ranks."""

import asyncio

from windlass.engine.pods.worker_server import ranks_metrics
from windlass.training.sinks import PrometheusSink


def test_ranks_that_share_a_pod_share_its_metrics_and_no_series() -> None:
    sinks = [PrometheusSink(rank, "plays") for rank in range(2)]
    try:
        text = asyncio.run(ranks_metrics([*(sink.address for sink in sinks), "127.0.0.1:9"]))  # a third has just ended
    finally:
        for sink in sinks:
            sink.close()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert {f'process_resident_memory_bytes{{rank="{rank}"}}' for rank in range(2)} <= set(series)
    assert len(series) == len(set(series))
    headers = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headers) == len(set(headers))
