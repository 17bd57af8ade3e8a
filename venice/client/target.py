"""What a producer knows of the store it writes to: its schemas, its real-time topic, and whether it still takes writes.

Write path: producer → **target** → outbox → real-time topic.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from venice.clock import Clock
from venice.config import Settings, load
from venice.control.catalog import Catalog, CatalogTail
from venice.errors import Conflict, InvalidRequest, NotFound, VeniceError
from venice.log import PAYLOAD_BYTES_MAX
from venice.log.open import open_log
from venice.model import Store
from venice.naming import CATALOG_TOPIC, check_store_name, real_time_topic
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec

LOG_TIMEOUT_S = 30.0
CATALOG_POLL_S = 0.1
CLOCK_STEP_MS_MAX = 60_000
"""A clock set back by less stands still for this producer; by more it is followed, and order across the step is lost."""
RECENT_KEYS_MAX = 10_000

_TIMESTAMP_MS_MAX = 2**63 - 1
_new = tuple.__new__
# Members of an enum class are looked up slowly, and there are two for each write.
_PUT = Kind.PUT
_DELETE = Kind.DELETE
_REAL_TIME = Origin.REAL_TIME


class Target:
    """One store, seen by one producer. Safe to share between threads.

    Args:
        settings: Settings, the path of a `venice.toml`, or the URL of a log.
        store: Its name.
        region: To write in; None: the settings' own, or the only one there is.
        clock: Stamps the writes.
        timeout_s: After how long a silent log is Unavailable, if that is less than the log's own patience.

    Raises:
        NotFound: No such store or region.
        Conflict: The store is not hybrid.
        InvalidRequest: The region must be named.
        Unavailable: The log cannot be reached.
    """

    def __init__(self, settings: Settings | Path | str, store: str, region: str | None, *, clock: Clock, timeout_s: float) -> None:
        check_store_name(store)
        if isinstance(settings, str) and settings.startswith(("sqlite:", "kafka:")):
            url = settings
        else:
            found = settings if isinstance(settings, Settings) else load(settings)
            url, region = found.log_url, region or found.region
        self._process = os.getpid()
        self._clock = clock
        self._lock = threading.Lock()
        self._now_ms = 0
        self._recent: dict[bytes, int] = {}
        self._recent_max = RECENT_KEYS_MAX
        self._refusal: VeniceError | None = None
        self._topic = real_time_topic(store)
        self._log = open_log(url, clock, timeout_s=min(timeout_s, LOG_TIMEOUT_S))
        try:
            if CATALOG_TOPIC not in self._log.topics():
                raise NotFound(f"{url} holds no catalog", hint="name the log of a running cluster")
            self._tail = CatalogTail(self._log, clock, CATALOG_POLL_S)
        except BaseException:
            self._log.close()
            raise
        try:
            self._tail.start()
            _check_region(self._tail.catalog, region)
            self._use(_described(self._tail.catalog, store))
        except BaseException:
            self.close()
            raise
        self._tail.subscribe(self._follow)
        self._follow(self._tail.catalog)

    def _use(self, store: Store) -> None:
        newest = max(store.value_schemas, key=lambda schema: schema.id)
        self._store = store
        self._schema_id = newest.id
        self._record_bytes_max = store.config.record_bytes_max
        self.partitions = store.real_time_partitions
        self.key_codec = key_codec(store.key_schema)
        self.value_codec = Codec(newest.text)
        self._encode_key = self.key_codec.encode
        self._encode_value = self.value_codec.encode

    def put(self, key: Any, value: Any, timestamp_ms: int | None) -> tuple[int, bytes]:
        """(real-time partition, payload) of a put. Raises what `Producer.put` says."""
        payload = self._encode_value(value)
        if len(payload) > self._record_bytes_max:
            raise InvalidRequest(
                f"value of {len(payload):,} bytes for key {key!r}: {self._store.name!r} takes {self._record_bytes_max:,}",
                hint="write less, or raise the store's record_bytes_max",
            )
        return self._record(_PUT, self._encode_key(key), payload, self._schema_id, timestamp_ms)

    def delete(self, key: Any, timestamp_ms: int | None) -> tuple[int, bytes]:
        """(real-time partition, payload) of a delete."""
        return self._record(_DELETE, self._encode_key(key), b"", 0, timestamp_ms)

    def append(self, partition: int, payloads: list[bytes]) -> list[int]:
        """Append to the real-time topic, unless the store takes no more writes. Raises VeniceError."""
        if self._refusal is not None:
            raise self._refusal
        return self._log.append(self._topic, partition, payloads)

    def close(self) -> None:
        """Not in a forked child, whose threads and connections these are not."""
        self._tail.close()
        self._log.close()

    def _record(self, kind: Kind, key: bytes, value: bytes, schema_id: int, timestamp_ms: int | None) -> tuple[int, bytes]:
        if self._refusal is not None:
            raise self._refusal
        if timestamp_ms is None:
            timestamp_ms = self._next_time(key)
        elif timestamp_ms.__class__ is not int or not 0 < timestamp_ms <= _TIMESTAMP_MS_MAX:
            raise InvalidRequest(
                f"timestamp {timestamp_ms!r} is not a whole number of milliseconds after 1970", hint="leave it out for now"
            )
        # All thirteen fields in their order: naming them costs more than encoding them.
        record: Record = _new(Record, (kind, key, value, schema_id, 0, _REAL_TIME, timestamp_ms, -1, b"", 0, 0, 0, ()))
        payload = encode(record)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise InvalidRequest(f"a write of {len(payload):,} bytes: the log takes {PAYLOAD_BYTES_MAX:,}", hint="write less")
        return partition_of(key, self.partitions), payload

    def _next_time(self, key: bytes) -> int:
        """Now, but later than this producer's last write of the key: a millisecond holds many writes, and order must show."""
        clock_ms = self._clock.now_ms()
        with self._lock:
            if clock_ms > self._now_ms or clock_ms < self._now_ms - CLOCK_STEP_MS_MAX:
                self._now_ms = clock_ms
            now_ms = self._now_ms
            recent = self._recent
            time_ms = recent.get(key, 0) + 1
            if time_ms < now_ms:
                time_ms = now_ms
            recent[key] = time_ms
            if len(recent) > self._recent_max:
                # The others' next time is the clock's anyway.
                self._recent = {key: at for key, at in recent.items() if at >= now_ms}
                self._recent_max = max(RECENT_KEYS_MAX, 2 * len(self._recent))
        return time_ms

    def _follow(self, catalog: Catalog) -> None:
        """Take from a newer catalog what concerns writes under way; in the tail's thread."""
        try:
            store = _described(catalog, self._store.name)
            if store.created_ms != self._store.created_ms or store.real_time_partitions != self.partitions:
                raise NotFound(f"store {store.name!r} was deleted and made anew", hint="open a new producer")
        except VeniceError as error:
            self._refusal = error
        else:
            self._refusal = None
            self._record_bytes_max = store.config.record_bytes_max


def _check_region(catalog: Catalog, region: str | None) -> None:
    if region is None and len(catalog.regions) != 1:
        raise InvalidRequest("the region to write in is not named", hint=f"regions there are: {_listed(catalog.regions)}")
    if region is not None and region not in catalog.regions:
        raise NotFound(f"no region {region!r}", hint=f"regions there are: {_listed(catalog.regions)}")


def _described(catalog: Catalog, name: str) -> Store:
    store = catalog.stores.get(name)
    if store is None:
        raise NotFound(f"no store {name!r}", hint=f"stores there are: {_listed(catalog.stores)}")
    if store.hybrid is None or not store.real_time_partitions:
        raise Conflict(f"store {name!r} takes no real-time writes", hint=f"make it hybrid: venice store update {name} --hybrid")
    if not store.value_schemas:
        raise Conflict(f"store {name!r} has no value schema", hint="register one: venice schema add")
    return store


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none yet"
