"""Random numbers of our own, so that the program's are what it makes of them: it may have set a seed.

This module must not import anything heavy.
"""

from __future__ import annotations

import os
import random

_own = random.Random()
draw = _own.random
"""Uniform in [0, 1)."""

if hasattr(os, "register_at_fork"):
    # Children that draw the same would all choose the same executor, and all come back at the same moment.
    os.register_at_fork(after_in_child=_own.seed)
