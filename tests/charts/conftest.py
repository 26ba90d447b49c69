"""Helm, and what it makes of the chart."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.charts.chart import CHART, Helm, Objects, Render, parse

NAMESPACE = "operators"


@pytest.fixture(scope="session")
def helm(program: Callable[[str], Path]) -> Helm:
    path = program("helm")

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders for the release `windlass` in the namespace `operators`, once for each choice of values."""

    @functools.cache
    def template(*values: str) -> Objects:
        options = [f"--set={value}" for value in values]
        made = helm("template", "windlass", CHART, "--namespace", NAMESPACE, "--kube-version", "1.34", *options)
        assert made.returncode == 0, made.stderr
        return parse(made.stdout)

    return template
