"""``python -m relocate`` is the command ``relocate``."""

from .cli import main

main(prog_name="relocate")
