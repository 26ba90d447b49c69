"""A worker process of Ray that has imported what a rank needs by the time Ray knows of it.

    python rank_process.py ARGUMENTS OF RAY'S default_worker.py

WINDLASS_RANK_IMPORTS names the modules, with commas between them. Ray's own RAY_preload_python_modules imports after a
process has registered and before it takes work: ranks that are asked for meanwhile get processes of their own, and all
import side by side. For processes that have yet to register, Ray waits.
"""

import importlib
import os
import runpy


def main() -> None:
    """Import, and be Ray's worker."""
    for module in filter(None, os.environ.get("WINDLASS_RANK_IMPORTS", "").split(",")):
        importlib.import_module(module)
    runpy.run_module("ray._private.workers.default_worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
