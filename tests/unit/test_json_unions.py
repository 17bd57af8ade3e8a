"""Numbers of JSON where a union has several types for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venice.errors import InvalidRequest
from venice.schema.codec import Codec
from venice.schema.json_values import from_json
from venice.schema.parsing import parse

LARGE = 2**53 + 1


@pytest.mark.parametrize(
    ("union", "given", "expected"),
    [
        (["double", "long"], LARGE, LARGE),
        (["double", "long"], 5, 5.0),
        (["null", "double", "long"], -LARGE, -LARGE),
        (["double", "long"], 0.5, 0.5),
        (["null", "double"], LARGE, float(LARGE)),
    ],
)
def test_an_integer_becomes_a_double_only_where_none_of_its_digits_is_lost(union: Any, given: Any, expected: Any) -> None:
    text = json.dumps(union)
    schema, codec = parse(text), Codec(text)
    found = from_json(schema, schema.root, given)
    assert (found, type(found)) == (expected, type(expected))
    stored = codec.decode(codec.encode(found))
    assert (stored, type(stored)) == (expected, type(expected))


def test_an_integer_beyond_all_doubles_is_refused() -> None:
    schema = parse('["null", "double"]')
    with pytest.raises(InvalidRequest, match="JSON"):
        from_json(schema, schema.root, 10**400)
