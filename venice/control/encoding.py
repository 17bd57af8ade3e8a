"""The nouns of `venice/model.py` (and the answers of the control API) as JSON and back.

Readers ignore fields they do not know, so that a newer writer may add some; everything else that does not fit is
`Corrupt`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from venice.errors import Corrupt
from venice.model import WorkerReport
from venice.record import Kind, Record, decode, encode

T = TypeVar("T")

REPORT_PREFIX = "worker/"


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(cls: Any) -> TypeAdapter[Any]:
    # Built at first use: each costs a millisecond, and most processes need few.
    found = _adapters.get(cls)
    if found is None:
        found = _adapters[cls] = TypeAdapter(cls)
    return found


def to_json(value: object, cls: Any = None) -> bytes:
    """`value` (a dataclass of the model, or anything made of them when `cls` names its type) as JSON in UTF-8."""
    return _adapter(cls if cls is not None else type(value)).dump_json(value)


def from_json(cls: type[T], data: bytes, what: str) -> T:
    """The `cls` that `data` is the JSON of; `what` names it in the message.

    Raises:
        Corrupt: It is not JSON, lacks a field, or a field has another type.
    """
    try:
        value: T = _adapter(cls).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Corrupt(
            f"{what} is not a valid {cls.__name__}: {where + ': ' if where else ''}{first['msg']}",
            hint="it was not written by this release: upgrade this process, or inspect the topic",
        ) from error
    return value


def encode_report(report: WorkerReport) -> bytes:
    """The payload a worker appends to the reports topic."""
    key = f"{REPORT_PREFIX}{report.worker.id}".encode()
    return encode(Record(Kind.REPORT, key=key, value=to_json(report), timestamp_ms=report.reported_ms))


def decode_report(payload: bytes) -> WorkerReport:
    """The report in a payload of the reports topic. Raises Corrupt for anything else."""
    record = decode(payload)
    if record.kind is not Kind.REPORT:
        raise Corrupt(f"reports topic holds a record of kind {record.kind.name}", hint="only workers append to it")
    report = from_json(WorkerReport, record.value, "report")
    if record.key != f"{REPORT_PREFIX}{report.worker.id}".encode():
        raise Corrupt(f"report of worker {report.worker.id!r} stands under key {record.key!r}", hint="inspect the topic")
    return report
