"""Takes the place of an agent that Ray wants beside its raylet and our runs do not need: ends with the raylet.

    python -I -S idle_agent.py

It is run as a file, so that it imports nothing and is there at once; arguments are not looked at.
"""

import os
import time

POLL_SECONDS = 1.0


def main() -> None:
    """Wait until the process that started this one is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
