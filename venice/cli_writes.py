"""`venice put` and `venice delete`: single writes to a hybrid store, by hand or line by line from a pipe."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from venice.cli_output import AsJson, say, say_json, settings_of
from venice.clock import SystemClock
from venice.errors import InvalidRequest, VeniceError

if TYPE_CHECKING:
    from venice.client.acknowledgement import Accepted
    from venice.client.producer import Producer
    from venice.schema.codec import Codec
    from venice.schema.types import Type

StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Name of a hybrid store.")]
Key = Annotated[str | None, typer.Argument(metavar="[KEY]", help="The key: as it is for strings and numbers, JSON for anything else.")]
FromStdin = Annotated[bool, typer.Option("--stdin", help="Read writes from standard input: one JSON object a line.")]
Timestamp = Annotated[int | None, typer.Option("--timestamp-ms", min=1, help="When it happened, since 1970; default: now.")]

LOOK_S: Final = 0.5
"""How often a stream looks whether the log has refused something, so that it does not go on for long after that."""

Send = Callable[[dict[str, Any]], "Future[Accepted]"]


def put(
    ctx: typer.Context,
    store: StoreName,
    key: Key = None,
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="The value, as for the key.")] = None,
    timestamp_ms: Timestamp = None,
    stdin: FromStdin = False,
    as_json: AsJson = False,
) -> None:
    """Write a value, or with --stdin many: lines of {"key": …, "value": …} and, if you like, "timestamp_ms".

    Done when the log has acknowledged the write; readers see it soon after. A stream ends at the first line that is wrong:
    the lines before it are written, none after it is.
    """
    from venice.client.producer import Producer

    _check_usage(stdin=stdin, one=(key, value), timestamp_ms=timestamp_ms, wanted="KEY and VALUE")
    with Producer(settings_of(ctx), store) as producer:
        keys, values = producer.codecs
        if not stdin:
            assert key is not None
            assert value is not None
            accepted = producer.put(_given("key", keys, key), _given("value", values, value), timestamp_ms).result()
            _say_one(store, accepted, "written", as_json)
            return

        key_of, value_of = _converter(keys), _converter(values)

        def send(line: dict[str, Any]) -> Future[Accepted]:
            _check_members(line, ("key", "value"))
            return producer.put(key_of(line["key"]), value_of(line["value"]), line.get("timestamp_ms"))

        _say_many(store, _stream(producer, sys.stdin.buffer, send), "written", as_json)


def delete(
    ctx: typer.Context,
    store: StoreName,
    key: Key = None,
    timestamp_ms: Timestamp = None,
    stdin: FromStdin = False,
    as_json: AsJson = False,
) -> None:
    """Delete a key, or with --stdin many: lines of {"key": …} and, if you like, "timestamp_ms"."""
    from venice.client.producer import Producer

    _check_usage(stdin=stdin, one=(key,), timestamp_ms=timestamp_ms, wanted="KEY")
    with Producer(settings_of(ctx), store) as producer:
        keys, _ = producer.codecs
        if not stdin:
            assert key is not None
            _say_one(store, producer.delete(_given("key", keys, key), timestamp_ms).result(), "deleted", as_json)
            return

        key_of = _converter(keys)

        def send(line: dict[str, Any]) -> Future[Accepted]:
            _check_members(line, ("key",))
            return producer.delete(key_of(line["key"]), line.get("timestamp_ms"))

        _say_many(store, _stream(producer, sys.stdin.buffer, send), "deleted", as_json)


def _stream(producer: Producer, lines: Iterable[bytes], send: Send) -> int:
    """Send every line and wait for all of them; how many were sent.

    Raises:
        VeniceError: A line is wrong, or the log did not take it: the error names the first such line and says what is written.
    """
    clock = SystemClock()
    pending: deque[tuple[int, Future[Accepted]]] = deque()
    acknowledged = 0
    look_s = 0.0
    wrong: list[tuple[int, BaseException]] = []
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            pending.append((number, send(_parsed(line))))
        except VeniceError as error:
            wrong.append((number, error))
            break
        if (now_s := clock.monotonic_s()) >= look_s:
            look_s = now_s + LOOK_S
            while pending and pending[0][1].done() and pending[0][1].exception() is None:
                pending.popleft()
                acknowledged += 1
            if pending and pending[0][1].done():
                break
    producer.flush()
    failed = [(number, reason) for number, future in pending if (reason := future.exception()) is not None]
    acknowledged += len(pending) - len(failed)
    for number, reason in [*failed, *wrong]:
        raise _of_line(number, reason, acknowledged, len(failed))
    return acknowledged


def _of_line(number: int, reason: BaseException, acknowledged: int, failed: int) -> BaseException:
    """Why a line was not written, and what became of the others."""
    if not isinstance(reason, VeniceError):
        return reason
    others = f", and {failed - 1:,} more lines failed" if failed > 1 else ""
    return type(reason)(
        f"line {number:,}: {reason.message} ({acknowledged:,} lines are written{others})",
        hint=f"{reason.hint + '; ' if reason.hint else ''}then go on with this line: one that is written twice does no harm",
        **{**reason.data, "line": number, "acknowledged": acknowledged, "failed": failed},
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON: {error}", hint='write one object a line, such as {"key": "Oslo", "value": 1}') from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"a JSON object is needed, not {str(found)[:40]!r}", hint='such as {"key": "Oslo", "value": 1}')
    return found


def _check_members(line: dict[str, Any], wanted: tuple[str, ...]) -> None:
    for name in wanted:
        if name not in line:
            raise InvalidRequest(f"{name!r} is missing", hint=_MEMBERS_HINT)
    if len(line) > len(wanted):
        for name in line:
            if name not in wanted and name != "timestamp_ms":
                raise InvalidRequest(f"{name!r} means nothing", hint=_MEMBERS_HINT)


_MEMBERS_HINT: Final = "a line has a key, for put a value, and timestamp_ms if it is not now"


def _given(what: str, codec: Codec, text: str) -> Any:
    """A key or value from the command line: plain text where it is a string, JSON otherwise."""
    from venice.schema.types import Array, MapType, Primitive, Record

    root = codec.schema.resolve(codec.schema.root)
    if root == Primitive("string"):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(root, Array | MapType | Record):
            raise InvalidRequest(f"the {what} is not JSON: {error}", hint="quote it for the shell: '{\"name\": 1}'") from error
        found = text
    return _of_json(codec, found)


def _of_json(codec: Codec, value: Any) -> Any:
    from venice.schema.json_values import from_json

    return from_json(codec.schema, codec.schema.root, value)


def _converter(codec: Codec) -> Callable[[Any], Any]:
    """`_of_json` for many values: where JSON says all there is to say, the codec takes what was parsed as it is."""
    return (lambda value: value) if _is_json(codec.schema.root) else partial(_of_json, codec)


def _is_json(node: Type) -> bool:
    """Whether a value of this type is the same in JSON and to the codec."""
    from venice.schema.types import Array, EnumType, MapType, Primitive, Record, Ref, Union

    match node:
        case Primitive(kind, logical):
            return logical is None and kind not in ("bytes", "float", "double")
        case Array(inner) | MapType(inner):
            return _is_json(inner)
        case Record(_, fields):
            return all(_is_json(field.type) for field in fields)
        case Union(branches):
            return all(_is_json(branch) for branch in branches)
        case EnumType() | Ref():
            return True  # what a name refers to is part of the tree, and looked at there
        case _:
            return False


def _check_usage(*, stdin: bool, one: tuple[str | None, ...], timestamp_ms: int | None, wanted: str) -> None:
    if stdin and (timestamp_ms is not None or any(given is not None for given in one)):
        raise typer.BadParameter("with --stdin everything stands in the lines")
    if not stdin and None in one:
        raise typer.BadParameter(f"give {wanted}, or --stdin")


def _say_one(store: str, accepted: Accepted, done: str, as_json: bool) -> None:
    if as_json:
        say_json({"store": store, done: 1, "partition": accepted.partition, "offset": accepted.offset})
    else:
        say(f"{store}: {done}")


def _say_many(store: str, count: int, done: str, as_json: bool) -> None:
    if as_json:
        say_json({"store": store, done: count})
    else:
        say(f"{store}: {count:,} {done}")
