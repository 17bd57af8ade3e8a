"""What generated decoders call where inlining gains nothing: blocks, runs of floats, and what is raised."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NoReturn

from venice.errors import Corrupt, Incompatible
from venice.schema.types import ZERO_WIDTH_ITEMS_MAX
from venice.schema.varint import decode_long

GARBAGE: Final = (ArithmeticError, LookupError, ValueError, RecursionError, struct.error)
UNPACKERS_MAX: Final = 4096
BOOLEANS: Final = {0: False, 1: True}


class Unpackers(dict[int, Callable[[bytes, int], tuple[float, ...]]]):
    """Number of items → the function that reads so many at once; sizes come from data, so only small ones are kept."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __missing__(self, count: int) -> Callable[[bytes, int], tuple[float, ...]]:
        unpack = struct.Struct(f"<{count}{self._code}").unpack_from
        if count <= UNPACKERS_MAX:
            self[count] = unpack
        return unpack


RUNS: Final = {"float": (Unpackers("f"), 4), "double": (Unpackers("d"), 8)}


def read_block(data: bytes, offset: int) -> tuple[int, int]:
    """A block's item count at `offset`, after a byte size if one is given: (count, offset of the first item).

    Raises:
        IndexError: The data end within it.
        ValueError: More items than bytes left, which holds for no item that takes a byte; or a count of 0 in two bytes.
    """
    count, offset = decode_long(data, offset)
    if count < 0:
        count = -count
        _, offset = decode_long(data, offset)
    if not 0 < count <= len(data) - offset:
        raise ValueError("more items than bytes")
    return count, offset


def read_empty_block(data: bytes, offset: int, before: int) -> tuple[int, int]:
    """As `read_block` for items that take no bytes, of which the array holds `before` already.

    Raises:
        ValueError: More than `ZERO_WIDTH_ITEMS_MAX` items.
    """
    count, offset = decode_long(data, offset)
    if count < 0:
        count = -count
        _, offset = decode_long(data, offset)
    if not 0 < count <= ZERO_WIDTH_ITEMS_MAX - before:
        raise ValueError("too many items that take no bytes")
    return count, offset


def refuse_number() -> NoReturn:
    raise ValueError("a union branch, number or count that the schema does not have")


def refuse_value(problem: str) -> NoReturn:
    raise Incompatible(problem, hint="read with the schema it was written with, or one compatible with it")


def corrupt(what: str, data: bytes, error: Exception | None) -> Corrupt:
    """What a reader is told of bytes that are no value of the schema."""
    reason = "bytes are left after the value" if error is None else f"{type(error).__name__}: {error}"
    return Corrupt(
        f"{len(data)} bytes are not an Avro value of {what}: {reason}",
        hint="they were damaged, or written with another schema",
        bytes=len(data),
    )
