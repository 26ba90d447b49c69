"""Windlass trains language models: the same job file on a laptop and on a Kubernetes cluster."""

__version__ = "0.1.0"
