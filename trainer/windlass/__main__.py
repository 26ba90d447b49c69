"""`python -m windlass` is the command `windlass`."""

from windlass.cli.main import app

if __name__ == "__main__":
    app(prog_name="windlass")
