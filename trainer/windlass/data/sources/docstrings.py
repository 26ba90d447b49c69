"""Questions about Python's standard library, and their answers: examples of instructions that every machine has.

A record for each public function and class with a docstring: `prompt` asks what it does, `completion` is the first
paragraph of the docstring.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

from windlass.data.sources.files import SourceFile, open_file
from windlass.errors import WindlassError

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def records(file: SourceFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and record of what a .py file documents. Raises DataCorrupt where it is no Python."""
    with open_file(file) as opened:
        try:
            tree = ast.parse(opened.read())
        except (SyntaxError, ValueError) as error:
            raise WindlassError("DataCorrupt", f"{file.uri} is no Python: {error}") from error
    module = file.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name, node in _public(tree, module):
        if answer := _first_paragraph(ast.get_docstring(node)):
            yield f"{file.uri}:{node.lineno}", {"prompt": f"What does {name} do?", "completion": answer}


def _public(tree: ast.AST, path: str) -> Iterator[tuple[str, Documented]]:
    """Functions, classes and their methods, with their dotted names, unless a part of it begins with an underscore."""
    if any(part.startswith("_") for part in path.split(".")):
        return
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield f"{path}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from _public(node, f"{path}.{node.name}")


def _first_paragraph(text: str | None) -> str:
    return " ".join(re.split(r"\n\s*\n", text or "", maxsplit=1)[0].split())
