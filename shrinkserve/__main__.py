"""`python -m shrinkserve`."""

from shrinkserve.cli import run

if __name__ == "__main__":
    run()
