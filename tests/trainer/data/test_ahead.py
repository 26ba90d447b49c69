"""Background threads, seen from the end of their process."""

import subprocess
import sys

PROGRAM = """
import threading, time
from windlass.data.ahead import Ahead, ending, in_background

def work():
    ending.wait()
    time.sleep(0.3)
    print("the thread ended", flush=True)

def endless():
    while True:
        yield [0]

in_background(work)
in_background(threading.Event().wait)  # never ends
next(Ahead(endless(), 2))
print("the main thread ended", flush=True)
"""


def test_the_process_ends_after_its_threads_and_without_those_that_do_not_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the main thread ended", "the thread ended"]
