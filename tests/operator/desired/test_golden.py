"""Everything that a job becomes, word for word: jobs/NAME.yaml becomes golden/NAME.yaml.

After a change that is meant, make the files again and read what git diff says:
    WINDLASS_UPDATE_GOLDEN=1 python -m pytest tests/operator/desired/test_golden.py
"""

import difflib
import io
import os

import pytest
from ruamel.yaml import YAML
from tests.operator.desired.cases import FOLDER, NAMES, job_of, objects_of

from windlass_operator.job import Object

HEADER = "# Made by tests/operator/desired/test_golden.py, which says how; do not edit.\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_job_becomes_the_objects_of_its_golden_file(name: str) -> None:
    file = FOLDER / "golden" / f"{name}.yaml"
    made = HEADER + as_yaml(objects_of(job_of(name)))
    if os.environ.get("WINDLASS_UPDATE_GOLDEN"):
        file.write_text(made)
    golden = file.read_text()
    diff = difflib.unified_diff(golden.splitlines(), made.splitlines(), str(file), "made now", lineterm="", n=8)
    assert made == golden, "\n".join([*diff, "", "If this is meant: WINDLASS_UPDATE_GOLDEN=1 makes the file again."])


def as_yaml(objects: list[Object]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, documented bool
    yaml.width = 10**6
    text = io.StringIO()
    yaml.dump_all(objects, text)
    return text.getvalue()
