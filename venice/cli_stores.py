"""`venice store`, `venice schema` and `venice version`: commands to the controller."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import typer

from venice.cli_output import (
    AsJson,
    controller_of,
    group,
    model_json,
    moment,
    say,
    say_json,
    schema_text,
    size,
    table,
    warn,
)
from venice.cli_store_settings import (
    Hybrid,
    LagRecords,
    Packed,
    Partitions,
    Preserved,
    Quota,
    RecordBytes,
    Replicas,
    Retention,
    Rewind,
    Strategy,
    Superset,
    given,
)
from venice.cli_store_settings import hybrid as hybrid_config
from venice.cli_versions import print_versions
from venice.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from venice.control.remote import ControllerClient
    from venice.model import HybridConfig, Store

stores = group("Create, list, describe, change and delete stores.")
schemas = group("Register and show the schemas of a store.")

StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Name of the store.")]
SCHEMA_HELP: Final = "an .avsc file, a primitive such as 'string' or 'long', or the JSON itself"


@stores.command("create")
def create(
    ctx: typer.Context,
    store: StoreName,
    key: Annotated[str, typer.Option("--key", metavar="SCHEMA", help=f"Schema of the keys: {SCHEMA_HELP}.")],
    value: Annotated[str, typer.Option("--value", metavar="SCHEMA", help="Schema of the values, likewise.")],
    owner: Annotated[str, typer.Option(help="Who answers for the store.")] = "",
    partitions: Partitions = None,
    replicas: Replicas = None,
    versions_preserved: Preserved = None,
    record_bytes_max: RecordBytes = None,
    compression: Packed = None,
    storage_quota: Quota = None,
    backup_strategy: Strategy = None,
    backup_retention: Retention = None,
    superset: Superset = None,
    hybrid: Hybrid = None,
    rewind: Rewind = None,
    lag_records: LagRecords = None,
    as_json: AsJson = False,
) -> None:
    """Create a store with its key schema and its first value schema."""
    from venice.model import HybridConfig, StoreConfig

    config = given(
        partition_count=partitions,
        replication_factor=replicas,
        versions_preserved=versions_preserved,
        record_bytes_max=record_bytes_max,
        compression=compression,
        storage_quota=storage_quota,
        backup_strategy=backup_strategy,
        backup_retention_s=backup_retention,
        superset_schema=superset,
    )
    controller = controller_of(ctx)
    made = controller.create_store(
        store,
        key_schema=schema_text(key),
        value_schema=schema_text(value),
        owner=owner,
        config=StoreConfig(**config),
        hybrid=hybrid_config(HybridConfig() if hybrid else None, rewind, lag_records),
    )
    _warn_of_few_nodes(controller, made)
    if as_json:
        say_json(model_json(made))
    else:
        say(f"store {made.name} created with {made.config.partition_count} partitions; 'venice push {made.name}' fills it")


@stores.command("list")
def list_stores(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all stores."""
    found = controller_of(ctx).list_stores()
    if as_json:
        say_json(model_json(found))
    elif not found:
        say("no stores yet; 'venice store create' makes one")
    else:
        say(table(("store", "current", "versions", "rows", "size", "owner"), (_store_row(store) for store in found)))


@stores.command("describe")
def describe(ctx: typer.Context, store: StoreName, as_json: AsJson = False) -> None:
    """Show a store: configuration, schemas, versions."""
    controller = controller_of(ctx)
    found = controller.get_store(store)
    if as_json:
        say_json(model_json(found))
        return
    from venice.model import BackupStrategy

    config = found.config
    say(f"{found.name}: owner {found.owner or '-'}, created {moment(found.created_ms)}, current version {found.current or '-'}")
    say(
        f"new versions: {config.partition_count} partitions, {config.replication_factor} replicas each; "
        f"{config.versions_preserved} complete versions are kept; values up to {size(config.record_bytes_max)}, "
        f"compression {config.compression.value}"
    )
    quota = "unlimited" if config.storage_quota_bytes < 0 else size(config.storage_quota_bytes)
    kept = "as soon as a push begins" if config.backup_strategy is BackupStrategy.DELETE_ON_NEW_PUSH_START else "when one is swapped in"
    say(f"storage quota {quota}; a backup goes {kept}, or {config.backup_retention_s:,} s after a swap")
    if found.hybrid is not None:
        say(
            f"hybrid: a push replays the last {found.hybrid.rewind_s:,} s of {found.real_time_partitions} real-time partitions; "
            f"ready at {found.hybrid.lag_records_max:,} records behind or fewer"
        )
    say(f"key schema: {found.key_schema}")
    superset = f"; {found.superset_schema_id} is the superset of all" if found.superset_schema_id else ""
    ids = ", ".join(str(schema.id) for schema in found.value_schemas)
    say(f"value schemas: {ids}{superset} ('venice schema show {store}' prints one)")
    print_versions(controller.list_versions(store))


@stores.command("update")
def update(
    ctx: typer.Context,
    store: StoreName,
    owner: Annotated[str | None, typer.Option(help="Who answers for the store.")] = None,
    partitions: Partitions = None,
    replicas: Replicas = None,
    versions_preserved: Preserved = None,
    record_bytes_max: RecordBytes = None,
    compression: Packed = None,
    storage_quota: Quota = None,
    backup_strategy: Strategy = None,
    backup_retention: Retention = None,
    superset: Superset = None,
    hybrid: Hybrid = None,
    rewind: Rewind = None,
    lag_records: LagRecords = None,
    as_json: AsJson = False,
) -> None:
    """Change a store; versions that exist keep what they were made with."""
    from venice.control.answers import Keep
    from venice.model import HybridConfig

    controller = controller_of(ctx)
    changes = given(
        partition_count=partitions,
        replication_factor=replicas,
        versions_preserved=versions_preserved,
        record_bytes_max=record_bytes_max,
        compression=compression,
        storage_quota=storage_quota,
        backup_strategy=backup_strategy,
        backup_retention_s=backup_retention,
        superset_schema=superset,
    )
    wanted: HybridConfig | Keep | None = Keep.KEEP
    if (hybrid, rewind, lag_records) != (None, None, None):
        before = controller.get_store(store).hybrid if hybrid is not False else None
        wanted = hybrid_config(before or HybridConfig() if hybrid else before, rewind, lag_records)
    if not changes and owner is None and wanted is Keep.KEEP:
        raise InvalidRequest("nothing to change", hint="give at least one option; 'venice store update --help' lists them")
    changed = controller.update_store(store, owner=owner, hybrid=wanted, **changes)
    if replicas is not None:
        _warn_of_few_nodes(controller, changed)
    if as_json:
        say_json(model_json(changed))
    else:
        say(f"store {store} changed; it applies to versions pushed from now on")


@stores.command("delete")
def delete(
    ctx: typer.Context,
    store: StoreName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a store with all its versions."""
    controller = controller_of(ctx)
    found = controller.get_store(store)
    if not yes:
        _confirm(f"delete {store} with its {len(found.versions)} versions for ever?")
    controller.delete_store(store)
    if as_json:
        say_json({"deleted": store})
    else:
        say(f"store {store} deleted")


@schemas.command("add")
def add_schema(
    ctx: typer.Context,
    store: StoreName,
    schema: Annotated[str, typer.Argument(metavar="SCHEMA", help=f"The value schema: {SCHEMA_HELP}.")],
    as_json: AsJson = False,
) -> None:
    """Register a value schema; it must be compatible with all before it, both ways."""
    added = controller_of(ctx).add_schema(store, schema_text(schema))
    if as_json:
        say_json(model_json(added))
    else:
        say(f"value schema {added.id} of {store}")


@schemas.command("list")
def list_schemas(ctx: typer.Context, store: StoreName, as_json: AsJson = False) -> None:
    """List the schemas of a store."""
    found = controller_of(ctx).get_store(store)
    if as_json:
        say_json({"key": json.loads(found.key_schema), "values": {item.id: json.loads(item.text) for item in found.value_schemas}})
        return
    rows = [("key", found.key_schema), *((_schema_name(found, item.id), item.text) for item in found.value_schemas)]
    say(table(("schema", "text"), [(name, text if len(text) <= 100 else text[:99] + "…") for name, text in rows]))


def _schema_name(store: Store, schema_id: int) -> str:
    return f"value {schema_id}{' (superset)' if schema_id == store.superset_schema_id else ''}"


@schemas.command("show")
def show_schema(
    ctx: typer.Context,
    store: StoreName,
    schema: Annotated[str, typer.Argument(metavar="[ID|key]", help="A value schema's id, or 'key'; default: the newest.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print one schema as JSON."""
    found = controller_of(ctx).get_store(store)
    known = {"key": found.key_schema, **{str(item.id): item.text for item in found.value_schemas}}
    if schema and schema not in known:
        raise NotFound(f"store {store} has no schema {schema!r}", hint=f"it has {', '.join(known)}")
    text = known[schema or list(known)[-1]]
    say(json.dumps(json.loads(text), indent=None if as_json else 2, ensure_ascii=False))


def _warn_of_few_nodes(controller: ControllerClient, store: Store) -> None:
    """On stderr: it is no error, but whoever counts on the copies should know that they are not there yet."""
    live = sum(any(worker.live for worker in info.workers) and not info.node.draining for info in controller.nodes())
    wanted = store.config.replication_factor
    if live < wanted and wanted > 1:
        warn(
            f"{store.name} wants each partition on {wanted} nodes, and there {'is' if live == 1 else 'are'} {live}: "
            "versions serve with what there is, and the other copies are made when nodes join"
        )


def _confirm(question: str) -> None:
    import sys

    if not sys.stdin.isatty():
        raise Conflict(f"nobody is here to answer: {question}", hint="pass --yes to go on without being asked")
    if not typer.confirm(question):
        raise typer.Exit(1)


def _store_row(store: Store) -> tuple[object, ...]:
    current = store.version(store.current)
    rows, stored = (f"{current.row_count:,}", size(current.byte_count)) if current else ("-", "-")
    return store.name, store.current or "-", len(store.versions), rows, stored, store.owner or "-"
