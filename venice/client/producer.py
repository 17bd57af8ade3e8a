"""Producer: single writes to a hybrid store, acknowledged by the log.

Write path: **producer** → real-time topic → leader → version topic → ingest → storage.

Writes are collected per real-time partition and appended in batches by one thread, in the order in which they were made;
so the writes of a key keep their order. A batch the log did not acknowledge is appended again, unchanged: a write carries
its time from the moment it was made, and merging it twice changes nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from venice.clock import Clock, SystemClock
from venice.config import Settings, load
from venice.control.catalog import CatalogReader
from venice.errors import Conflict, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log import PAYLOAD_BYTES_MAX, Log
from venice.log.open import open_log
from venice.model import Store
from venice.naming import real_time_topic
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec

BATCH_RECORDS_MAX = 500
RETRY_S = 0.2
RECENT_KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where the log keeps a write: it survives the death of any process."""

    partition: int
    offset: int


@dataclass(slots=True)
class _Write:
    partition: int
    payload: bytes
    done: Future[Accepted]


class Producer:
    """Writes to one store. Safe to share between threads.

    Args:
        settings: Settings, or the path of a `venice.toml`: where the log is.
        store: A hybrid store.
        region: The region whose real-time topic is written; default: the settings' own.
        buffer_bytes: Writes not yet acknowledged may take so much memory; beyond it a write waits.
        delivery_s: A write that the log has not taken after so long fails with Unavailable.
        clock: For tests.

    Raises:
        NotFound: No such store or region.
        Conflict: The store is not hybrid.
        Unavailable: The log cannot be reached.
    """

    def __init__(
        self,
        settings: Settings | Path | str,
        store: str,
        region: str | None = None,
        *,
        buffer_bytes: int = 32 * 1024 * 1024,
        delivery_s: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings if isinstance(settings, Settings) else load(settings)
        self._clock = clock or SystemClock()
        self.store = store
        self._topic = real_time_topic(store)
        self._buffer_bytes = buffer_bytes
        self._delivery_s = delivery_s
        self._log: Log = open_log(self._settings.log_url, self._clock)
        try:
            described = self._describe(region or self._settings.region)
        except BaseException:
            self._log.close()
            raise
        self._partitions = described.real_time_partitions
        self._record_bytes_max = described.config.record_bytes_max
        self._schema_id = max(schema.id for schema in described.value_schemas)
        self._encode_key = Codec(described.key_schema).encode
        self._encode_value = Codec(next(s.text for s in described.value_schemas if s.id == self._schema_id)).encode
        self._recent: dict[bytes, int] = {}
        self._waiting: deque[_Write] = deque()
        self._pending_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"producer-{store}", daemon=True)
        self._thread.start()

    def put(self, key: Any, value: Any, timestamp_ms: int | None = None) -> Future[Accepted]:
        """Write a whole value.

        Args:
            key: Of the store's key schema.
            value: Of its newest value schema.
            timestamp_ms: When the write happened, in milliseconds since the epoch, if that is not now: of two writes of
                a key the later one stands, however late it arrives.

        Returns:
            A future, done when the log has acknowledged the write.

        Raises:
            InvalidRequest: Key or value do not fit their schema, or are too large; nothing was written.
        """
        payload = self._encode_value(value)
        if len(payload) > self._record_bytes_max:
            raise InvalidRequest(
                f"value of {len(payload):,} bytes for key {key!r}: {self.store!r} takes {self._record_bytes_max:,}",
                hint="write less, or raise the store's record_bytes_max",
            )
        return self._write(Kind.PUT, key, payload, timestamp_ms)

    def delete(self, key: Any, timestamp_ms: int | None = None) -> Future[Accepted]:
        """Delete a key. Arguments, result and errors as for `put`."""
        return self._write(Kind.DELETE, key, b"", timestamp_ms)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every write made so far is acknowledged or has failed.

        Raises:
            Unavailable: `timeout_s` passed first.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._pending_bytes, timeout_s):
                raise Unavailable(f"the log has not taken all writes of {self.store!r} within {timeout_s:g} s", hint="try again")

    def close(self) -> None:
        """Flush, then stop. Closing again does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _describe(self, region: str) -> Store:
        reader = CatalogReader(self._log)
        try:
            catalog = reader.catch_up()
        finally:
            reader.close()
        if region not in catalog.regions:
            raise NotFound(f"no region {region!r}", hint=f"regions there are: {', '.join(sorted(catalog.regions)) or 'none yet'}")
        found = catalog.stores.get(self.store)
        if found is None:
            raise NotFound(f"no store {self.store!r}", hint=f"stores there are: {', '.join(sorted(catalog.stores)) or 'none'}")
        if found.hybrid is None or not found.value_schemas:
            raise Conflict(
                f"store {self.store!r} takes no real-time writes", hint=f"make it hybrid: venice store update {self.store} --hybrid"
            )
        return found

    def _write(self, kind: Kind, key: Any, value: bytes, timestamp_ms: int | None) -> Future[Accepted]:
        raw = self._encode_key(key)
        if timestamp_ms is not None and timestamp_ms <= 0:
            raise InvalidRequest(f"timestamp {timestamp_ms} is not a time in milliseconds", hint="leave it out for now")
        done: Future[Accepted] = Future()
        with self._changed:
            if self._closing:
                raise Unavailable(f"the producer of {self.store!r} is closed", hint="open a new one")
            record = Record(
                kind,
                key=raw,
                value=value,
                schema_id=self._schema_id if kind is Kind.PUT else 0,
                origin=Origin.REAL_TIME,
                timestamp_ms=timestamp_ms if timestamp_ms is not None else self._next_time(raw),
            )
            payload = encode(record)
            if len(payload) > PAYLOAD_BYTES_MAX:
                raise InvalidRequest(f"a write of {len(payload):,} bytes: the log takes {PAYLOAD_BYTES_MAX:,}", hint="write less")
            self._waiting.append(_Write(partition_of(raw, self._partitions), payload, done))
            self._pending_bytes += len(payload)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending_bytes <= self._buffer_bytes or self._closing)
        return done

    def _next_time(self, key: bytes) -> int:
        """Now, but later than this producer's last write of the key: a millisecond holds many writes, and order must show."""
        now_ms = self._clock.now_ms()
        time_ms = max(now_ms, self._recent.get(key, 0) + 1)
        self._recent[key] = time_ms
        if len(self._recent) > RECENT_KEYS_MAX:
            self._recent = {key: at for key, at in self._recent.items() if at >= now_ms}
        return time_ms

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_RECORDS_MAX))]
            by_partition: dict[int, list[_Write]] = {}
            for write in batch:
                by_partition.setdefault(write.partition, []).append(write)
            for partition, writes in by_partition.items():
                self._append(partition, writes)
            with self._changed:
                self._pending_bytes -= sum(len(write.payload) for write in batch)
                self._changed.notify_all()

    def _append(self, partition: int, writes: list[_Write]) -> None:
        deadline_s = self._clock.monotonic_s() + self._delivery_s
        while True:
            try:
                offsets = self._log.append(self._topic, partition, [write.payload for write in writes])
            except VeniceError as error:
                if not error.retryable or self._clock.monotonic_s() >= deadline_s:
                    for write in _live(writes):
                        write.done.set_exception(error)
                    return
                self._clock.sleep(RETRY_S)
            else:
                for write, offset in zip(writes, offsets, strict=True):
                    if write.done.set_running_or_notify_cancel():
                        write.done.set_result(Accepted(partition, offset))
                return


def _live(writes: list[_Write]) -> list[_Write]:
    """Those whose future nobody has cancelled."""
    return [write for write in writes if write.done.set_running_or_notify_cancel()]
