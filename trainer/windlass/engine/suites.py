"""The benchmark suites that a job runs while it trains, with their data; their scores are measure_suites.py's."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from windlass.errors import WindlassError
from windlass.spec.job import Evaluation, Suite
from windlass.storage import Storage

if TYPE_CHECKING:
    from windlass.evaluation.suites import Benchmarks


@dataclass(frozen=True)
class OpenSuite:
    """A suite of the job with its data."""

    settings: Suite
    benchmarks: "Benchmarks"


@contextmanager
def open_suites(evaluation: Evaluation) -> Iterator[list[OpenSuite]]:
    """The suites of a job, with their data. Raises ConfigInvalid without lm_eval, and as `open_benchmarks`."""
    if not evaluation.suites:
        yield []
        return
    if find_spec("lm_eval") is None:
        message = "spec.evaluation.suites needs lm_eval, which is not installed: pip install 'windlass[evaluate]'"
        raise WindlassError("ConfigInvalid", message)
    from windlass.evaluation.suites import open_benchmarks  # imports lm_eval, which takes seconds

    with ExitStack() as stack:
        found = []
        for number, suite in enumerate(evaluation.suites):
            try:
                data = stack.enter_context(_data(suite))
                benchmarks = stack.enter_context(open_benchmarks([suite.name], data, suite.few_shot))
            except WindlassError as error:
                raise WindlassError(error.reason, f"spec.evaluation.suites[{number}]: {error}") from error
            found.append(OpenSuite(suite, benchmarks))
        yield found


@contextmanager
def _data(suite: Suite) -> Iterator[Path | None]:
    """The folder of a suite's data; of a storage, a copy for as long as it is needed. None: the hub."""
    storage = None if suite.uri is None else Storage(suite.uri)
    if storage is None or storage.is_local:
        yield None if storage is None else Path(storage.path)
        return
    with TemporaryDirectory(prefix="windlass-") as folder:
        wanted = f"{suite.name.partition('_')[0]}/"  # the tasks of a suite begin with its name
        for name in storage.list():
            if name.startswith(wanted) and name.endswith((".parquet", ".jsonl")):
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(storage.read(name))
        yield Path(folder)
