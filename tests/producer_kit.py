"""A hybrid store in a log, without a controller: what the tests of producers share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from venice.control.catalog import CatalogReader, Entity, encode_declaration, encode_entity, entity_key
from venice.log import Entry, Log
from venice.model import Graveyard, HybridConfig, Region, Store, StoreConfig, ValueSchema
from venice.naming import CATALOG_TOPIC, real_time_topic
from venice.record import Record, decode

KEY_SCHEMA = '"string"'
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Click", "fields": [{"name": "page", "type": "string"}, {"name": "n", "type": "long", "default": 0}]}
)
READ_RECORDS = 10_000


@dataclass
class Site:
    """A log with a catalog that holds one region and, under a name no other test uses, one hybrid store."""

    log: Log
    url: str
    store: Store
    region: Region

    @property
    def topic(self) -> str:
        return real_time_topic(self.store.name)

    def write(self, *entities: Entity) -> None:
        """Have the catalog say so, as a controller would."""
        reader = CatalogReader(self.log)
        catalog = reader.catch_up()
        reader.close()
        term = catalog.term + 1
        payloads = [encode_declaration(term=term, session=term, now_ms=1)]
        for sequence, entity in enumerate(entities, 1):
            position = catalog.position(entity_key(entity))
            payloads.append(encode_entity(entity, term=term, session=term, sequence=sequence, position=position, now_ms=1))
        self.log.append(CATALOG_TOPIC, 0, payloads)

    def change(self, **fields: object) -> None:
        """Have the store be another than it was."""
        self.store = replace(self.store, **fields)  # type: ignore[arg-type]  # of whatever type the field is
        self.write(self.store)

    def remove(self) -> None:
        """Delete the store: the log may be one that outlives the test."""
        self.write(Graveyard(name=self.store.name, largest_version=0, deleted_ms=1))
        self.log.delete_topic(self.topic)

    def records(self, partition: int | None = None) -> list[Record]:
        """What the real-time topic holds, partition by partition, in order."""
        partitions = range(self.store.real_time_partitions) if partition is None else (partition,)
        return [decode(entry.payload) for one in partitions for entry in self._entries(one, self.log.start_offset(self.topic, one))]

    def entries(self, start: Mapping[int, int]) -> list[tuple[int, int, Record]]:
        """(partition, offset, record) from these offsets on, partition by partition, in order."""
        return [(one, entry.offset, decode(entry.payload)) for one, offset in start.items() for entry in self._entries(one, offset)]

    def _entries(self, partition: int, offset: int) -> Iterator[Entry]:
        reader = self.log.reader({(self.topic, partition): offset})
        end = self.log.end_offset(self.topic, partition)
        while reader.position(self.topic, partition) < end:
            yield from reader.poll(records_max=READ_RECORDS, timeout_s=1.0)
        reader.close()


def make_site(log: Log, url: str, *, name: str = "", partitions: int = 4, value_schema: str = VALUE_SCHEMA) -> Site:
    name = name or f"clicks{os.urandom(6).hex()}"
    store = Store(
        name=name,
        owner="",
        key_schema=KEY_SCHEMA,
        value_schemas=(ValueSchema(id=1, text=value_schema),),
        config=StoreConfig(partition_count=partitions),
        created_ms=1,
        hybrid=HybridConfig(),
        real_time_partitions=partitions,
    )
    log.create_topic(real_time_topic(name), partitions)
    log.create_topic(CATALOG_TOPIC, 1)
    site = Site(log, url, store, Region(id=0, name="local"))
    site.write(site.region, store)
    return site
