"""Versions of Windlass and its main dependencies, without loading them."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import windlass


def lines() -> list[str]:
    """One line for each: a name and a version, or that it is not installed."""
    found = {"windlass": windlass.__version__, "python": platform.python_version()}
    for package in ("torch", "ray", "transformers"):
        try:
            found[package] = installed(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return [f"{name:<12} {number}" for name, number in found.items()]
