"""Logical types: the Python value and the Avro value it stands on, converted both ways.

| logical type | Python | Avro |
|---|---|---|
| date | `date` | int, days since 1970-01-01 |
| time-millis, time-micros | `time` without a zone | int, long since midnight |
| timestamp-millis, -micros | `datetime` in UTC | long since the epoch |
| local-timestamp-millis, -micros | `datetime` without a zone | long since 1970-01-01 00:00 |
| decimal | `Decimal` | bytes or fixed, big-endian two's complement of the unscaled number |
| uuid | `UUID` | string |

A conversion that would lose something (microseconds into a millisecond type, a zone into a local type, digits into a
decimal) is refused.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

from venice.schema.types import Logical

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LOCAL_EPOCH: Final = EPOCH.replace(tzinfo=None)
EPOCH_ORDINAL: Final = LOCAL_EPOCH.toordinal()
MICROSECOND: Final = dt.timedelta(microseconds=1)
MICROS_MIN: Final = (dt.datetime.min.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
MICROS_MAX: Final = (dt.datetime.max.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
DAYS_MIN: Final = dt.date.min.toordinal() - EPOCH_ORDINAL
DAYS_MAX: Final = dt.date.max.toordinal() - EPOCH_ORDINAL
DAY_MILLIS: Final = 86_400_000


def from_timestamp_millis(value: int) -> dt.datetime:
    return EPOCH + dt.timedelta(0, 0, value * 1000)


def from_timestamp_micros(value: int) -> dt.datetime:
    return EPOCH + dt.timedelta(0, 0, value)


def from_local_millis(value: int) -> dt.datetime:
    return LOCAL_EPOCH + dt.timedelta(0, 0, value * 1000)


def from_local_micros(value: int) -> dt.datetime:
    return LOCAL_EPOCH + dt.timedelta(0, 0, value)


def from_date(value: int) -> dt.date:
    return dt.date.fromordinal(value + EPOCH_ORDINAL)


def from_time_millis(value: int) -> dt.time:
    return from_time_micros(value * 1000)


def from_time_micros(value: int) -> dt.time:
    seconds, micros = divmod(value, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return dt.time(hour, minute, second, micros)


def decimal_reader(logical: Logical) -> Callable[[bytes], decimal.Decimal]:
    """Bytes → Decimal; more digits than the precision raise a `decimal.DecimalException`."""
    traps = [decimal.Inexact, decimal.Rounded, decimal.InvalidOperation]
    context = decimal.Context(prec=logical.precision, traps=traps, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
    exponent = -logical.scale

    def read(data: bytes) -> decimal.Decimal:
        return context.create_decimal(int.from_bytes(data, "big", signed=True)).scaleb(exponent, context)

    return read


FROM_AVRO: Final[dict[str, Callable[[Any], Any]]] = {
    "date": from_date,
    "time-millis": from_time_millis,
    "time-micros": from_time_micros,
    "timestamp-millis": from_timestamp_millis,
    "timestamp-micros": from_timestamp_micros,
    "local-timestamp-millis": from_local_millis,
    "local-timestamp-micros": from_local_micros,
    "uuid": uuid.UUID,
}
LOGICAL_CLASSES: Final[dict[str, tuple[type, ...]]] = {
    "date": (dt.date, int),
    "time-millis": (dt.time, int),
    "time-micros": (dt.time, int),
    "timestamp-millis": (dt.datetime, int),
    "timestamp-micros": (dt.datetime, int),
    "local-timestamp-millis": (dt.datetime, int),
    "local-timestamp-micros": (dt.datetime, int),
    "decimal": (decimal.Decimal, int),
    "uuid": (uuid.UUID, str),
}
"""The classes `to_avro` takes, by logical type."""


def to_avro(logical: Logical, value: Any, size: int | None = None) -> Any:
    """The Avro value of `value`, which may already be one (an integer for times, text for a UUID).

    Args:
        size: Bytes of the fixed type a decimal stands on; None for bytes.

    Raises:
        ValueError: It has no Avro value without loss; the message says why.
        TypeError: It is of another type.
    """
    match logical.name:
        case "decimal":
            return _decimal(logical, value, size)
        case "uuid":
            return str(value if isinstance(value, uuid.UUID) else uuid.UUID(_expect(value, str)))
        case "date":
            return _within(_date(value), DAYS_MIN, DAYS_MAX)
        case "time-millis":
            return _within(_time(value, 1000), 0, DAY_MILLIS - 1)
        case "time-micros":
            return _within(_time(value, 1), 0, DAY_MILLIS * 1000 - 1)
        case name:
            unit = 1000 if name.endswith("millis") else 1
            return _within(_timestamp(value, unit, local=name.startswith("local")), MICROS_MIN // unit, MICROS_MAX // unit)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


def _within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{value} is outside {low} to {high}")
    return value


def _exact(micros: int, unit: int) -> int:
    whole, rest = divmod(micros, unit)
    if rest:
        raise ValueError("it has microseconds, and the type holds milliseconds")
    return whole


def _date(value: Any) -> int:
    if isinstance(value, dt.datetime):
        raise ValueError("a datetime is not a date: its time of day would be lost")
    if isinstance(value, dt.date):
        return value.toordinal() - EPOCH_ORDINAL
    return int(_expect(value, int))


def _time(value: Any, unit: int) -> int:
    if not isinstance(value, dt.time):
        return int(_expect(value, int))
    if value.tzinfo is not None:
        raise ValueError("its time zone would be lost")
    return _exact(((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond, unit)


def _timestamp(value: Any, unit: int, *, local: bool) -> int:
    if not isinstance(value, dt.datetime):
        return int(_expect(value, int))
    if local:
        if value.tzinfo is not None:
            raise ValueError("its time zone would be lost")
        return _exact((value - LOCAL_EPOCH) // MICROSECOND, unit)
    if value.tzinfo is None:
        raise ValueError("it has no time zone, so it names no instant")
    return _exact((value - EPOCH) // MICROSECOND, unit)


def _decimal(logical: Logical, value: Any, size: int | None) -> bytes:
    number = value if isinstance(value, decimal.Decimal) else decimal.Decimal(_expect(value, int))
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{number} is not a finite number")
    shift = exponent + logical.scale
    unscaled: int = int("".join(map(str, digits))) if digits else 0
    if unscaled == 0:
        shift = 0
    if shift > logical.precision:
        raise ValueError(f"more than {logical.precision} digits")
    dropped = 0
    if shift < 0:
        unscaled, dropped = divmod(unscaled, 10 ** min(-shift, len(digits) + 1))
    if dropped:
        raise ValueError(f"more than {logical.scale} digits after the point")
    unscaled *= 10 ** max(shift, 0)
    if unscaled >= 10**logical.precision:
        raise ValueError(f"more than {logical.precision} digits")
    length = (unscaled.bit_length() + 8) // 8 if size is None else size
    return (-unscaled if sign else unscaled).to_bytes(length, "big", signed=True)
