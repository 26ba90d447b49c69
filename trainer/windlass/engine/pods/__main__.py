"""The first process of a pod.

    python -m windlass.engine.pods head|worker|cleanup

The kernel keeps signals that have no handler from a container's first process: without one from the very start, a pod
that is deleted while it still imports would stay until its grace period is over.
"""

import importlib
import signal
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
sys.exit(importlib.import_module(f"windlass.engine.pods.{sys.argv[1]}").main())
