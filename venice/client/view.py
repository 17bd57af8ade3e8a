"""One version of a store as a Da Vinci client reads it: keys in, decoded values out, no I/O but its own storages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from venice.client.requests import check_dict_keys
from venice.client.rows import Readable, Rows
from venice.errors import Unavailable
from venice.model import Store, Version
from venice.rules.partitioning import partition_of
from venice.schema.codec import Decode, copier, key_codec, lookup, reader
from venice.schema.types import Primitive, Type
from venice.storage.format import decode_value, value_prefix
from venice.storage.packed import unpacker_of

_KEY_CLASSES: Final = {"int": int, "long": int, "string": str, "bytes": bytes}


@dataclass(frozen=True, slots=True)
class View:
    """One version, ready to be read: everything a read needs, so that a swap is one assignment."""

    version: int
    schemas: tuple[int, ...]
    """Ids of the value schemas it can read."""
    storages: tuple[Readable, ...]
    encode_key: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    get: Callable[[Any], Any]
    """A whole single get, made of the above."""


def view_of(store: Store, version: Version, storages: tuple[Readable, ...], *, cache_bytes: int, cache_objects: int) -> View:
    """The view of a version whose partitions are all open. Raises InvalidRequest for a schema that cannot be used.

    Args:
        cache_bytes: How much room the rows read last may take. Rows of a hybrid version change: none of them are kept.
        cache_objects: How many decoded values to keep.
    """
    schemas = {schema.id: schema.text for schema in store.value_schemas}
    latest = schemas[max(schemas)]
    keys = key_codec(store.key_schema)
    encode_key = keys.encode
    readers = {schema_id: reader(text, latest) for schema_id, text in schemas.items()}
    unpack = unpacker_of(version)
    if unpack is not None:
        readers = {schema_id: _unpacking(unpack, read) for schema_id, read in readers.items()}
    decode = _decoder(store.name, readers)
    rows = Rows(storages, cache_bytes if version.hybrid is None else 0)
    get = _getter(rows, encode_key, value_prefix(version.value_schema_id), readers.get(version.value_schema_id), decode)
    if cache_objects and version.hybrid is None:
        get = _cached(get, cache_objects, latest, _class_of(keys.schema.root))
    ids = tuple(schema.id for schema in store.value_schemas)
    return View(version=version.number, schemas=ids, storages=storages, encode_key=encode_key, decode=decode, get=get)


def _decoder(store: str, readers: Mapping[int, Decode]) -> Callable[[bytes], Any]:
    def decode(stored: bytes) -> Any:
        found = decode_value(stored)
        known = readers.get(found.schema_id)
        if known is None:
            raise Unavailable(f"value schema {found.schema_id} of {store!r} is not known here yet", hint="try again")
        return known(stored, found.offset)

    return decode


def _unpacking(unpack: Callable[[bytes], bytes], read: Decode) -> Decode:
    """`read` for values that are compressed."""

    def unpack_and_read(stored: bytes, offset: int = 0, /) -> Any:
        return read(unpack(stored[offset:]), 0)

    return unpack_and_read


def _getter(
    rows: Rows, encode_key: Callable[[Any], bytes], plain: bytes, read: Decode | None, decode: Callable[[bytes], Any]
) -> Callable[[Any], Any]:
    """A get: one closure over everything, because at these prices each further call is a tenth of it.

    Args:
        plain: What nearly all stored values begin with: the version's own schema and no further header.
        read: Reads what comes after it.
        decode: Reads any other stored value.
    """
    kept_row, find = rows.kept.get, rows.find
    plain_size = len(plain)

    def get(key: Any) -> Any:
        raw = encode_key(key)
        stored = kept_row(raw) or find(raw)
        if stored is None:
            return None
        if read is not None and stored[:plain_size] == plain:
            return read(stored, plain_size)
        return decode(stored)

    return get


def _class_of(key: Type) -> type | None:
    """The class that nearly all keys of a type are of, if there is such a one."""
    return _KEY_CLASSES.get(key.kind) if isinstance(key, Primitive) and key.logical is None else None


def _cached(get: Callable[[Any], Any], cache_objects: int, schema: str, key_class: type | None) -> Callable[[Any], Any]:
    """`get` with the decoded values of an immutable version kept by key, first in, first out: cheaper than recency at these
    prices, and a hot key is back after one read.

    By the key's type, too: 1, 1.0 and True are equal to a dictionary, and not to a key schema.
    """
    cache: OrderedDict[Any, Any] = OrderedDict()
    copy = copier(schema)

    def get_and_keep(key: Any) -> Any:
        value = get(key)
        if value is None:
            return None
        kept = key if key.__class__ is key_class else (key.__class__, key)
        try:
            cache[kept] = value
        except TypeError:  # a record or another key that has no hash
            return value
        if len(cache) > cache_objects:
            with suppress(KeyError):  # other threads are evicting, too
                cache.popitem(last=False)
        return copy(value)

    return lookup(schema, cache, key_class, get_and_keep)


def read(view: View, keys: Sequence[Any], *, hashed: bool = False) -> list[tuple[Any, Any]]:
    """(key, value) of the keys that exist, each once and in their order, with one multi_get per partition.

    Args:
        hashed: Refuse keys that no dict can hold.
    """
    count = len(view.storages)
    named: dict[bytes, Any] = {}
    for key in keys:
        named.setdefault(view.encode_key(key), key)
    if hashed:
        check_dict_keys(tuple(named.values()))
    by_partition: dict[int, list[bytes]] = {}
    for raw in named:
        by_partition.setdefault(partition_of(raw, count), []).append(raw)
    found: dict[bytes, bytes | None] = {}
    for partition, raws in by_partition.items():
        found.update(zip(raws, view.storages[partition].multi_get(raws), strict=True))
    return [(key, view.decode(stored)) for raw, key in named.items() if (stored := found[raw]) is not None]
