"""Questions about Python's library: records of what its functions and classes document."""

from pathlib import Path

import pytest

from windlass.data.examples import all_records
from windlass.data.sources.docstrings import records
from windlass.data.sources.files import local_file
from windlass.errors import WindlassError
from windlass.spec.job import ExampleSource
from windlass.storage import Storage

MODULE = '''
"""Of the module."""
def parse(text):
    """Read a text,
    line by line.

    Raises ValueError.
    """
    def inner(): "not seen from outside"
def bare(): pass
def _hidden(): "no"
class Tree:
    "A tree."
    def grow(self): "Add a leaf."
    async def wait(self): "   "
class _Private:
    def grow(self): "no"
'''


def read(folder: Path, name: str) -> list[tuple[str, dict[str, str]]]:
    return list(records(local_file(Storage(str(folder)), name)))


def test_each_public_name_with_a_docstring_is_a_question_with_its_first_paragraph(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/forest.py").write_text(MODULE)
    assert read(tmp_path, "shop/forest.py") == [
        (f"{tmp_path}/shop/forest.py:{line}", {"prompt": f"What does shop.forest.{name} do?", "completion": answer})
        for line, name, answer in (
            (3, "parse", "Read a text, line by line."),
            (12, "Tree", "A tree."),
            (14, "Tree.grow", "Add a leaf."),
        )
    ]


def test_what_begins_with_an_underscore_is_not_public_and_a_package_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "_private.py").write_text(MODULE)
    assert read(tmp_path, "_private.py") == []
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").write_text('def open(): "Let people in."')
    assert read(tmp_path, "shop/__init__.py")[0][1]["prompt"] == "What does shop.open do?"


def test_what_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def (")
    with pytest.raises(WindlassError, match=r"a\.py is no Python: invalid syntax"):
        read(tmp_path, "a.py")


def test_the_library_of_this_python_has_thousands() -> None:
    found = {
        record["prompt"]: record["completion"] for _, record in all_records(ExampleSource(uri="python://docstrings"))
    }
    assert len(found) > 3000
    assert found["What does textwrap.dedent do?"].startswith("Remove any common leading whitespace from every line")
