"""Stores and their schemas, as pure functions: what a command makes of the catalog, or why it cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from venice import compression
from venice.control import subjects
from venice.control.answers import Keep
from venice.control.catalog import Catalog
from venice.errors import Conflict, Incompatible, InvalidRequest, NotFound
from venice.model import UNLIMITED, BackupStrategy, Graveyard, HybridConfig, Store, StoreConfig, ValueSchema
from venice.naming import check_store_name
from venice.rules import lifecycle
from venice.schema import registry

LIMITS: dict[str, tuple[int, int]] = {
    "partition_count": (1, 4096),
    "replication_factor": (1, 16),
    "versions_preserved": (1, 100),
    "record_bytes_max": (1, 1 << 30),
    "storage_quota_bytes": (UNLIMITED, 1 << 60),
    "backup_retention_s": (0, 10 * 366 * 86_400),
}
"""Smallest and largest value of each field of `StoreConfig` that is a number."""

HYBRID_LIMITS: dict[str, tuple[int, int]] = {
    "rewind_s": (0, 10 * 366 * 86_400),
    "lag_records_max": (0, 1 << 40),
}
"""Smallest and largest value of each field of `HybridConfig`."""


def find(catalog: Catalog, name: str) -> Store:
    """The store. Raises NotFound, with the name that may have been meant."""
    store = catalog.stores.get(name)
    if store is None:
        close = get_close_matches(name, catalog.stores, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise NotFound(f"no store {name!r}", hint=f"{hint}'venice store list' shows which are there")
    return store


def created(
    catalog: Catalog,
    name: str,
    *,
    owner: str,
    key_schema: str,
    value_schema: str | None,
    config: StoreConfig,
    hybrid: HybridConfig | None,
    now_ms: int,
) -> Store:
    """A new store. Its version numbers and schema ids go on where those of a deleted store of its name ended.

    Raises:
        Conflict: It exists.
        InvalidRequest: The name, a schema or a number is not allowed.
    """
    check_store_name(name)
    if name in catalog.stores:
        raise Conflict(f"store {name!r} exists already", hint=f"'venice store describe {name}' shows it")
    grave = catalog.graveyards.get(name)
    store = Store(
        name=name,
        owner=owner,
        key_schema=registry.check_key_schema(key_schema),
        value_schemas=(),
        config=_checked(config),
        largest_version=grave.largest_version if grave is not None else 0,
        created_ms=now_ms,
    )
    subjects.check_id(catalog, store.key_schema)
    store = _with_hybrid(store, hybrid)
    return store if value_schema is None else with_schema(catalog, store, value_schema)[0]


def updated(
    catalog: Catalog, store: Store, owner: str | None, config: Mapping[str, int | str], hybrid: HybridConfig | Keep | None = Keep.KEEP
) -> Store:
    """The store with another owner or configuration; what a version took a copy of stays.

    Raises:
        InvalidRequest: There is no such setting, or not with this value.
        Incompatible: A superset schema is wanted, and the value schemas have none.
    """
    known = [field.name for field in fields(StoreConfig)]
    for name in config:
        if name not in known:
            raise InvalidRequest(f"a store has no setting {name!r}", hint=f"its settings are {', '.join(known)}")
    changed = configured(store.config, config)
    store = replace(store, owner=store.owner if owner is None else owner, config=changed)
    store = _with_superset(catalog, store)
    return store if isinstance(hybrid, Keep) else _with_hybrid(store, hybrid)


def buried(store: Store, now_ms: int) -> Graveyard:
    """What deletes the store. Raises Conflict while a push is under way."""
    running = lifecycle.ongoing(store)
    if running is not None:
        raise Conflict(
            f"store {store.name!r} is being pushed: version {running.number}, push {running.push_id!r}",
            hint=f"wait for it, or kill version {running.number}",
            version=running.number,
        )
    largest_schema_id = max((schema.id for schema in store.value_schemas), default=0)
    return Graveyard(name=store.name, largest_version=store.largest_version, largest_schema_id=largest_schema_id, deleted_ms=now_ms)


def with_schema(catalog: Catalog, store: Store, text: str) -> tuple[Store, ValueSchema]:
    """The store with a value schema, and the schema with its id: the one it has if it is registered already.

    Raises:
        InvalidRequest: It is no schema.
        Incompatible: It does not fit an earlier one, or the store wants a superset schema and there is none; names the field.
        Conflict: Another schema has the id that registry clients would know it by.
    """
    schema_id, schemas = registry.register(store.value_schemas, text)
    schema = next(schema for schema in schemas if schema.id == schema_id)
    if schema not in store.value_schemas:
        subjects.check_id(catalog, schema.text)
    grave = catalog.graveyards.get(store.name)
    if not store.value_schemas and grave is not None:
        # Clients may have cached what an id meant in the deleted store: it never means anything else.
        schema = replace(schema, id=grave.largest_schema_id + 1)
        schemas = (schema,)
    return _with_superset(catalog, replace(store, value_schemas=schemas)), schema


def _with_superset(catalog: Catalog, store: Store) -> Store:
    """The store with the superset of its value schemas among them, if it wants one."""
    if not store.config.superset_schema or not store.value_schemas:
        return replace(store, superset_schema_id=0)
    try:
        schema_id, schemas = registry.register_superset(store.value_schemas)
    except Incompatible as error:
        raise Incompatible(
            f"the value schemas of store {store.name!r} have no superset: {error.message}",
            hint=f"{error.hint}; or do without: 'venice store update {store.name} --no-superset'",
            **error.data,
        ) from error
    subjects.check_id(catalog, next(schema.text for schema in schemas if schema.id == schema_id))
    return replace(store, value_schemas=schemas, superset_schema_id=schema_id)


def _with_hybrid(store: Store, hybrid: HybridConfig | None) -> Store:
    """Versions pushed from now on follow the real-time topic, or (None) do not; the topic stays as it was first made."""
    if hybrid is None:
        return replace(store, hybrid=None)
    _check(hybrid, HYBRID_LIMITS)
    return replace(store, hybrid=hybrid, real_time_partitions=store.real_time_partitions or store.config.partition_count)


def configured(before: StoreConfig, settings: Mapping[str, int | str]) -> StoreConfig:
    """`before` with other settings, as they were given. Raises InvalidRequest."""
    made: dict[str, Any] = dict(settings)
    if "compression" in made:
        made["compression"] = compression.named(str(made["compression"]))
    if "backup_strategy" in made:
        made["backup_strategy"] = _strategy(str(made["backup_strategy"]))
    return _checked(replace(before, **made))


def _strategy(name: str) -> BackupStrategy:
    try:
        return BackupStrategy(name)
    except ValueError as error:
        known = ", ".join(strategy.value for strategy in BackupStrategy)
        raise InvalidRequest(f"backup strategy {name!r} is not known", hint=f"use one of {known}") from error


def _checked(config: StoreConfig) -> StoreConfig:
    _check(config, LIMITS)
    return config


def _check(settings: object, limits: Mapping[str, tuple[int, int]]) -> None:
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise InvalidRequest(f"{name} cannot be {value}", hint=f"use {least} to {most}")
