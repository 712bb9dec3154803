"""A module's description as bytes."""

from __future__ import annotations

import importlib
import math

import pytest

from relocate import describing, interface


def test_an_interface_comes_back_equal_from_its_bytes() -> None:
    for module in (math, importlib.import_module("textwrap"), importlib.import_module("json")):
        found = describing.describe(module)
        assert interface.decode(interface.encode(found)) == found


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", interface.encode(describing.describe(math))[:-1]])
def test_what_is_no_interface_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an interface"):
        interface.decode(data)
