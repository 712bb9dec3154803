"""Activation at interpreter start, for programs that do not know of relocate.

A line in ``relocate-modules.pth`` imports this if RELOCATE_MODULES, RELOCATE_METHODS or RELOCATE_CONFIG is set.
"""

from __future__ import annotations

import os
import sys


def activate() -> None:
    """Enable what the environment asks for; a mistake in it ends the program before it begins."""
    from .config import ENV_EXECUTOR

    if ENV_EXECUTOR in os.environ:
        return
    from .errors import ConfigError, RelocateError
    from .handle import enable

    try:
        # The script's folder is not on sys.path yet, and this program may never import a designated
        # module: executors are started when it does.
        enable(early=False)
    except RelocateError as error:
        print(f"relocate: {error}", file=sys.stderr, flush=True)
        # SystemExit would make the interpreter report a crash of `site`.
        os._exit(2 if isinstance(error, ConfigError) else 1)


activate()
