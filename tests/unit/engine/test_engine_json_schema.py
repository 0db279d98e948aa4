"""JSON schemas become grammars: of valid values alone, and nothing in a schema is ignored."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcmesh.engine.gbnf import GrammarError, parse_gbnf
from rpcmesh.engine.grammar import Matcher
from rpcmesh.engine.json_schema import schema_to_gbnf

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "number"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "maxItems": 2}},
    "required": ["name", "tags"],
}
POINT = {"type": "object", "properties": {"x": {}}, "additionalProperties": {"type": "integer"}}
ITSELF = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}


def describes(schema: Any, text: str) -> bool:
    matcher = Matcher(parse_gbnf(schema_to_gbnf(json.dumps(schema))))
    for character in text:
        if not matcher.allows(character.encode()):
            return False
        matcher.accept(character.encode())
    return matcher.may_end


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({}, [1, "a", None, [1, {"a": []}]], []),
        (True, [1, {}], []),
        ({"title": "anything", "description": "at all"}, [1, "a"], []),
        ({"type": "object"}, [{}, {"a": 1, "b": {"c": [None]}}], [[], 1, "a"]),
        ({"type": "array"}, [[], [1, "a"]], [{}, 1]),
        ({"type": "string"}, ["", 'a"\\\n\té👋'], [1, None]),
        ({"type": "integer"}, [0, -7, 12345], [1.5, "1"]),
        ({"type": "number"}, [0, -7.25, 1e22, 1.5e-7], ["1", None]),
        ({"type": "boolean"}, [True, False], [0, "true"]),
        ({"type": "null"}, [None], [0, False]),
        ({"type": ["string", "null"], "maxLength": 2}, ["ab", None], ["abc", 1]),
        ({"const": 'say "hi"\n\\'}, ['say "hi"\n\\'], ["say", 1]),
        ({"enum": ["a", 1, None]}, ["a", 1, None], ["b", 2]),
        ({"type": "string", "enum": ["a", "ab"]}, ["a", "ab"], ["b", "abc"]),
        ({"minLength": 2, "maxLength": 3}, ["ab", "abc", "é👋"], ["a", "abcd"]),
        ({"type": "string", "minLength": 2}, ["ab", "a" * 50], ["a"]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "24-01-01", ""]),
        ({"type": "string", "format": "time"}, ["23:59:59Z", "01:02:03.5+01:00"], ["24:00:00Z", "01:02"]),
        ({"type": "string", "format": "date-time"}, ["2024-01-01T00:00:00Z"], ["2024-01-01"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
        ({"type": "string", "format": "email"}, ["anything"], [1]),
        ({"items": {"type": "integer"}}, [[], [1], [1, 2, 3]], [["a"], [1, "a"], 1]),
        ({"type": "array", "items": {"const": 1}, "minItems": 2}, [[1, 1], [1, 1, 1]], [[], [1]]),
        ({"type": "array", "items": {"const": 1}, "maxItems": 2}, [[], [1], [1, 1]], [[1, 1, 1]]),
        ({"type": "array", "minItems": 1, "maxItems": 1}, [["a"]], [[], [1, 2]]),
        ({"type": "array", "maxItems": 0}, [[]], [[1]]),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
        (
            PERSON,
            [{"name": "a", "tags": []}, {"name": "a", "age": 3, "tags": [1, "b"]}],
            [{}, {"name": "a"}, {"tags": [], "name": "a"}, {"name": "a", "tags": [], "x": 1}, {"name": 1, "tags": []}],
        ),
        ({"properties": {"a": {}, "b": {}}}, [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}], [{"c": 1}]),
        ({"type": "object", "properties": {}, "additionalProperties": False}, [{}], [{"a": 1}]),
        (POINT, [{}, {"x": "any"}, {"x": 1, "y": 2, "z": 3}, {"y": 2}], [{"y": "a"}]),
        ({"additionalProperties": {"type": "null"}}, [{}, {"a": None, "b": None}], [{"a": 1}]),
        ({"anyOf": [{"type": "integer"}, {"const": "a"}]}, [1, "a"], ["b"]),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, [1, None], ["b"]),
        ({"allOf": [{"type": "integer"}]}, [1], ["b"]),
        (TREE, [{"v": 1, "next": None}, {"v": 1, "next": {"v": 2.5, "next": None}}], [{"v": 1}, {"v": 1, "next": 1}]),
        (ITSELF, [{}, {"children": [{}, {"children": []}]}], [{"children": [1]}]),
        (
            {"properties": {"a/b": {"$ref": "#/definitions/x~1y"}}, "definitions": {"x/y": {"const": 1}}},
            [{"a/b": 1}],
            [],
        ),
    ],
)
def test_a_schema_describes_its_values_and_no_others(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    for dumped in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=2)):
        assert [value for value in valid if not describes(schema, dumped(value))] == []
        assert [value for value in invalid if describes(schema, dumped(value))] == []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (5, "'#' is not an object"),
        (False, "'#' is not an object"),
        ({"type": "text"}, "'text'"),
        ({"type": 5}, "the type 5"),
        ({"type": "integer", "minimum": 0}, "'minimum'"),
        ({"type": "string", "pattern": "^a$"}, "'pattern'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "string", "items": {}}, "'items'"),
        ({"not": {}}, "'not'"),
        ({"anyOf": [{"type": "null"}], "properties": {}}, "'properties'"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"properties": {"a": {"properties": {"b": {"type": "x"}}}}}, "'#/properties/a/properties/b'"),
        ({"properties": []}, "of another kind"),
        ({"properties": {}, "required": ["a"]}, "'a'"),
        ({"enum": []}, "'enum'"),
        ({"anyOf": {}}, "'anyOf'"),
        ({"allOf": [{}, {}]}, "'allOf' with 2"),
        ({"prefixItems": [{}], "items": {}}, "'items'"),
        ({"maxItems": 10**9}, "1000000000"),
        ({"minLength": -1}, "-1"),
        ({"minLength": True}, "True"),
        ({"minItems": None}, "None"),
        ({"type": []}, "the type []"),
        ({"properties": {}, "required": [[]]}, "of another kind"),
        ({"properties": {}, "required": None}, "of another kind"),
        ({"minItems": 3, "maxItems": 2}, "below"),
        ({"$ref": "https://example.org/x"}, "'https://example.org/x'"),
        ({"$ref": "#/$defs/x"}, "not there"),
        ({"$ref": "#/$defs/" + "9" * 5_000, "$defs": [{}]}, "not there"),
        ({"$ref": 5}, "refers to 5"),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(1500)}}, "characters"),
        ({"enum": ["a" * 70_000]}, "at most 65536"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(GrammarError) as caught:
        schema_to_gbnf(json.dumps(schema))
    assert says in caught.value.message


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"type": "null"}]}])
def test_a_schema_that_is_itself_at_once_is_refused(schema: Any) -> None:
    with pytest.raises(GrammarError, match="begins with itself"):
        parse_gbnf(schema_to_gbnf(json.dumps(schema)))


@pytest.mark.parametrize("text", ["", "{", '{"a": ' * 10_000, '{"items":' * 3_000 + "{}" + "}" * 3_000])
def test_a_text_that_is_no_schema_or_without_end_is_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        schema_to_gbnf(text)


def test_nothing_follows_a_value() -> None:
    matcher = Matcher(parse_gbnf(schema_to_gbnf('{"type":"object"}')))
    matcher.accept(b'{"a": 1}')
    assert matcher.may_end
    assert not any(matcher.allows(bytes([byte])) for byte in range(128))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abé"\n', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES)
def test_any_value_is_described_by_the_empty_schema_and_by_itself_in_one_spelling(value: Any) -> None:
    assert describes({}, json.dumps(value))
    assert describes({"const": value}, json.dumps(value, ensure_ascii=False))


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["type", "items", "properties", "enum", "anyOf", "$ref", "required", "minItems", "format"]),
        VALUES | st.sampled_from(["object", "array", "string", "#", ["a"], {"a": {"type": "null"}}]),
    )
)
def test_any_json_is_a_grammar_or_refused(schema: Any) -> None:
    with contextlib.suppress(GrammarError):
        Matcher(parse_gbnf(schema_to_gbnf(json.dumps(schema))))
