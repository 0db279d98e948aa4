"""What a client asks of its answer's form: ``response_format``, ``grammar``, ``json_schema``. No I/O.

A grammar itself is read by the engine, which knows the limits.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rpcmesh.engine.messages import Constraint, GbnfGrammar, JsonSchema
from rpcmesh.gateway.errors import invalid, unsupported_value

ANY_OBJECT = JsonSchema('{"type":"object"}')


class NamedSchema(msgspec.Struct, frozen=True):
    """OpenAI's envelope. The answer always keeps to the schema, so ``strict`` changes nothing."""

    name: str | None = None
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """``schema`` beside ``json_object`` is llama.cpp's."""

    type: str
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


def constraint(
    response_format: ResponseFormat | None, grammar: str | None, json_schema: dict[str, Any] | bool | None
) -> tuple[Constraint | None, str]:
    """What the three fields ask for together, and the name of the one that does. Raises :class:`ApiError` for two."""
    asked: list[tuple[Constraint, str]] = []
    if response_format is not None:
        asked += [(each, "response_format") for each in _of_format(response_format)]
    if grammar:
        asked.append((GbnfGrammar(grammar), "grammar"))
    if json_schema or json_schema is False:
        asked.append((_schema(json_schema), "json_schema"))
    if len(asked) > 1:
        raise invalid(asked[1][1], f"{asked[1][1]!r} contradicts {asked[0][1]!r}: give one of them")
    return asked[0] if asked else (None, "")


def _of_format(wanted: ResponseFormat) -> tuple[Constraint, ...]:
    match wanted.type:
        case "text":
            return ()
        case "json_object":
            return (ANY_OBJECT if wanted.schema is None else _schema(wanted.schema),)
        case "json_schema":
            if wanted.json_schema is None or wanted.json_schema.schema is None:
                path = "response_format.json_schema" + ("" if wanted.json_schema is None else ".schema")
                raise invalid(path, f"missing required parameter {path!r}", "missing_required_parameter")
            return (_schema(wanted.json_schema.schema),)
        case other:
            message = f"the format {other[:40]!r} is not supported here: use text, json_object or json_schema"
            raise unsupported_value("response_format.type", message)


def _schema(schema: dict[str, Any] | bool) -> JsonSchema:
    return JsonSchema(msgspec.json.encode(schema).decode())
