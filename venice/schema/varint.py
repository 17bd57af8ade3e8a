"""Avro's numbers of variable length: zig-zag, seven bits a byte, least significant first."""

from __future__ import annotations

INT_MAX = (1 << 31) - 1


def encode_long(value: int) -> bytes:
    """The bytes of a 64-bit integer.

    Raises:
        OverflowError: Outside the 64-bit range.
    """
    rest = value << 1 if value >= 0 else ~(value << 1)
    if rest < 0x80:
        return bytes((rest,))
    if rest < 0x4000:
        return bytes((rest & 0x7F | 0x80, rest >> 7))
    if rest < 0x20_0000:
        return bytes((rest & 0x7F | 0x80, rest >> 7 & 0x7F | 0x80, rest >> 14))
    if rest >= 1 << 64:
        raise OverflowError("outside the 64-bit range")
    return encode_unsigned(rest)


def encode_unsigned(number: int) -> bytes:
    """The bytes of a number ≥ 0 as it is, without zig-zag."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_int(value: int) -> bytes:
    """The bytes of a 32-bit integer.

    Raises:
        OverflowError: Outside the 32-bit range.
    """
    if not -INT_MAX - 1 <= value <= INT_MAX:
        raise OverflowError("outside the 32-bit range")
    return encode_long(value)


def unsigned_tail(data: bytes, offset: int, low: int, shift: int) -> tuple[int, int]:
    """The rest of a number whose first `shift` bits are `low`: (number before zig-zag, offset after it).

    Raises:
        IndexError: The data end within the number.
        ValueError: More than 64 bits.
    """
    while True:
        byte = data[offset]
        offset += 1
        low |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    if low >> 64:
        raise ValueError("a number of more than 64 bits")
    return low, offset


def int_tail(data: bytes, offset: int, low: int, shift: int) -> tuple[int, int]:
    """As `unsigned_tail`, and ValueError for more than 32 bits."""
    low, offset = unsigned_tail(data, offset, low, shift)
    if low >> 32:
        raise ValueError("a number of more than 32 bits")
    return low, offset


def decode_long(data: bytes, offset: int) -> tuple[int, int]:
    """A 64-bit integer at `offset`: (integer, offset after it). Raises as `unsigned_tail`."""
    number, offset = unsigned_tail(data, offset, 0, 0)
    return (number >> 1) ^ -(number & 1), offset


def decode_size(data: bytes, offset: int) -> tuple[int, int]:
    """A length at `offset`: (length ≥ 0, offset after it).

    Raises:
        IndexError: The data end within the number.
        ValueError: Negative, or longer than what is left.
    """
    size, offset = decode_long(data, offset)
    if size < 0 or size > len(data) - offset:
        raise ValueError("a length beyond the end of the data")
    return size, offset
