"""The catalog's schemas as a Confluent Schema Registry names them: subjects, versions, ids. Pure.

The subject `<store>-value` has the store's value schemas, whose ids within the store are its versions; `<store>-key` has
the key schema as version 1. Ids that count over all stores are made of the schema's text (`venice.schema.confluent`), so
the catalog need not hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from venice.control.catalog import Catalog
from venice.errors import Conflict
from venice.model import Store
from venice.schema import registry
from venice.schema.confluent import schema_id_of

KEY: Final = "-key"
VALUE: Final = "-value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A schema under a subject."""

    subject: str
    version: int
    text: str

    @property
    def id(self) -> int:
        """The same for the same text under any subject."""
        return schema_id_of(self.text)


def subjects(catalog: Catalog) -> list[str]:
    """By name; a store without a value schema has its key's subject alone."""
    names = [f"{name}{KEY}" for name in catalog.stores]
    names += [f"{name}{VALUE}" for name, store in catalog.stores.items() if store.value_schemas]
    return sorted(names)


def store_of(catalog: Catalog, subject: str) -> Store | None:
    """The store whose key or values the subject is."""
    for suffix in (KEY, VALUE):
        if subject.endswith(suffix):
            return catalog.stores.get(subject.removesuffix(suffix))
    return None


def versions(store: Store, subject: str) -> tuple[Registered, ...]:
    """The schemas of a subject of the store, oldest first."""
    if subject.endswith(KEY):
        return (Registered(subject=subject, version=1, text=store.key_schema),)
    return tuple(Registered(subject=subject, version=schema.id, text=schema.text) for schema in store.value_schemas)


def find(store: Store, subject: str, text: str) -> Registered | None:
    """The schema of the subject that reads and writes as `text` does. Raises InvalidRequest: `text` is no schema."""
    wanted = registry.parse(text)
    return next((one for one in versions(store, subject) if registry.parse(one.text) == wanted), None)


def with_id(catalog: Catalog, schema_id: int) -> list[Registered]:
    """All subjects and versions of the schema with this id; they have the same text."""
    return [one for one in _all(catalog) if one.id == schema_id]


def check_id(catalog: Catalog, text: str) -> None:
    """That no other schema has the id of `text`. Raises Conflict; one in forty catalogs of 10,000 schemas meets it."""
    taken = next((one for one in with_id(catalog, schema_id_of(text)) if one.text != text), None)
    if taken is not None:
        raise Conflict(
            f"the schema has the registry id {taken.id}, which is that of another one: version {taken.version} of {taken.subject!r}",
            hint="change anything in its text, such as a doc attribute: ids are made of the text",
        )


def _all(catalog: Catalog) -> Iterator[Registered]:
    for name, store in catalog.stores.items():
        yield from versions(store, f"{name}{KEY}")
        yield from versions(store, f"{name}{VALUE}")
