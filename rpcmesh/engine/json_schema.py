"""A JSON schema becomes a grammar of exactly the JSON texts that it describes, or is refused. No I/O, no llama.cpp.

llama-cpp-python has a converter. It is not used: it writes constants with line breaks or quotes as invalid JSON, and
ignores keywords that it does not know. What is not understood is refused by name here, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from rpcmesh.engine.gbnf import REPEATS_MAX, TEXT_CHARS_MAX, GrammarError, literal

# Between the parts of a value, never behind the last: so an answer ends where its value does. Models write one space or
# a line break; without a bound some would write nothing else.
SPACE = 'ws ::= " "? | "\\n" [ \\t]{0,20}'

# Rules that others are made of, in GBNF, with the rules that each names.
BUILT_IN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "value": (
        "object | array | string | number | boolean | null",
        ("object", "array", "string", "number", "boolean", "null"),
    ),
    "object": ('"{" ws (member ("," ws member)* ws)? "}"', ("member",)),
    "member": ('string ":" ws value', ("string", "value")),
    "array": ('"[" ws (value ("," ws value)* ws)? "]"', ("value",)),
    "string": ('"\\"" char* "\\""', ("char",)),
    "char": (r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})', ()),
    "number": ('"-"? int ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?', ("int",)),
    "integer": ('"-"? int', ("int",)),
    "int": ('"0" | [1-9] [0-9]{0,15}', ()),
    "boolean": ('"true" | "false"', ()),
    "null": ('"null"', ()),
    "date": ('[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])', ()),
    "time": (
        'hour ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? ("Z" | [-+] hour ":" [0-5] [0-9])',
        ("hour",),
    ),
    "hour": ('[01] [0-9] | "2" [0-3]', ()),
    "uuid": ('[0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12}', ()),
}
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS = {"date": "date", "time": "time", "date-time": 'date "T" time', "uuid": "uuid"}

# Words that say nothing about which values are valid.
ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions"),
}
WORDS_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    # A format that is not known here is an annotation, as the standard has it.
    "string": {"minLength", "maxLength", "format"},
}


def schema_to_gbnf(text: str) -> str:
    """The grammar of a schema given as JSON text. Raises :class:`GrammarError`, which names the place at fault.

    Members come in the schema's order, and objects with ``properties`` have no others unless
    ``additionalProperties`` says so.
    """
    if len(text) > TEXT_CHARS_MAX:
        raise GrammarError(f"the schema has {len(text)} characters: at most {TEXT_CHARS_MAX} are allowed")
    try:
        schema = msgspec.json.decode(text)
        writer = _Writer(schema)
        return writer.written(writer.rule(schema, "#"))
    except msgspec.DecodeError as error:
        raise GrammarError(f"the schema is not valid JSON: {error}") from error
    except RecursionError as error:
        raise GrammarError("the schema is nested too deeply") from error


class _Writer:
    """Rules are numbered as they are met. ``at`` is where in the schema a part stands, as a JSON pointer."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._n_chars = 0

    def written(self, root: str) -> str:
        return "\n".join((f"root ::= {root}", SPACE, *(f"{name} ::= {body}" for name, body in self._rules.items())))

    def rule(self, schema: Any, at: str) -> str:
        """The name of the rule for one schema."""
        if schema is not True and not isinstance(schema, dict):
            raise GrammarError(f"the schema's {at!r} is not an object")
        if schema is True or not schema.keys() - ANNOTATIONS:
            return self._built_in("value")
        for word, write in self._combining.items():
            if word in schema:
                _refuse_others(schema, {word, "type"}, at)
                return write(self, schema, at)
        kinds = schema.get("type", _implied(schema))
        if isinstance(kinds, list) and kinds:
            every = {word for kind in kinds for word in WORDS_OF_TYPE.get(str(kind), ())}
            _refuse_others(schema, every | {"type"}, at)
            return self._added(" | ".join(self._typed(schema, kind, at) for kind in kinds), at)
        _refuse_others(schema, WORDS_OF_TYPE.get(str(kinds), set()) | {"type"}, at)
        return self._typed(schema, kinds, at)

    def _typed(self, schema: dict[str, Any], kind: Any, at: str) -> str:
        if kind not in TYPES:
            raise GrammarError(f"the schema's {at!r} has the type {kind!r}: use one of {', '.join(TYPES)}")
        if not WORDS_OF_TYPE.get(kind, set()) & schema.keys():
            return self._built_in(kind)
        match kind:
            case "object":
                return self._object(schema, at)
            case "array":
                return self._array(schema, at)
            case _:
                return self._string(schema, at)

    def _reference(self, schema: dict[str, Any], at: str) -> str:
        pointer = schema["$ref"]
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise GrammarError(f"the schema's {at!r} refers to {pointer!r}: only '#' and '#/...' are supported")
        name = self._references.get(pointer)
        if name is None:
            name = self._references[pointer] = f"ref{len(self._references)}"
            self._rules[name] = ""  # keeps its place: what it refers to may refer to it
            self._rules[name] = self.rule(self._target(pointer, at), pointer)
        return name

    def _target(self, pointer: str, at: str) -> Any:
        target = self._root
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and _is_index(key) and int(key) < len(target):
                target = target[int(key)]
            else:
                raise GrammarError(f"the schema's {at!r} refers to {pointer!r}, which is not there")
        return target

    def _union(self, schema: dict[str, Any], at: str) -> str:
        word = next(word for word in ("anyOf", "oneOf") if word in schema)
        choices = _list(schema, word, at)
        return self._added(" | ".join(self.rule(each, f"{at}/{word}/{i}") for i, each in enumerate(choices)), at)

    def _all(self, schema: dict[str, Any], at: str) -> str:
        several = _list(schema, "allOf", at)
        if len(several) != 1:
            raise GrammarError(f"the schema's {at!r} has 'allOf' with {len(several)} schemas: only one is supported")
        return self.rule(several[0], f"{at}/allOf/0")

    def _constants(self, schema: dict[str, Any], at: str) -> str:
        values = [schema["const"]] if "const" in schema else _list(schema, "enum", at)
        choices = (literal(json.dumps(value, ensure_ascii=False)) for value in values)
        return self._added(" | ".join(choices), at)

    # Words that stand for a whole schema: no others are understood beside them.
    _combining: ClassVar[Mapping[str, Callable[[_Writer, dict[str, Any], str], str]]] = {
        "$ref": _reference,
        "anyOf": _union,
        "oneOf": _union,
        "allOf": _all,
        "const": _constants,
        "enum": _constants,
    }

    def _object(self, schema: dict[str, Any], at: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", "properties" not in schema)
        names = required if isinstance(required, list) else [None]
        if not isinstance(properties, dict) or not all(isinstance(name, str) for name in names):
            raise GrammarError(f"the schema's {at!r} has 'properties' or 'required' of another kind")
        missing = next((name for name in required if name not in properties), None)
        if missing is not None:
            raise GrammarError(f"the schema's {at!r} requires {missing!r}, which is not among its properties")
        members = [
            (self._member(name, each, f"{at}/properties/{name}"), name in required) for name, each in properties.items()
        ]
        if more is not False:
            value = self.rule(more, f"{at}/additionalProperties")
            other = self._added(f'{self._built_in("string")} ":" ws {value}', at)
            members.append((self._added(f'{other} ("," ws {other})*', at), False))
        return self._added(f'"{{" ws {self._members(members, at)} ws "}}"' if members else '"{" ws "}"', at)

    def _member(self, name: str, schema: Any, at: str) -> str:
        key = literal(json.dumps(name, ensure_ascii=False) + ":")
        return self._added(f"{key} ws {self.rule(schema, at)}", at)

    def _members(self, members: list[tuple[str, bool]], at: str) -> str:
        """Members in their order, optional ones or not, and commas between those that are there.

        ``later`` is what may follow a member that is there; ``first`` what may stand where none is yet. Both are made
        from the last member backwards, each out of those for the members behind it.
        """
        first = later = '""'
        for rule, is_required in reversed(members):
            here = self._added(f"{rule} {later}", at)
            comma = self._added(f'"," ws {rule} {later}', at)
            first = here if is_required else self._added(f"{here} | {first}", at)
            later = comma if is_required else self._added(f"{comma} | {later}", at)
        return first

    def _array(self, schema: dict[str, Any], at: str) -> str:
        least, most = _bounds(schema, "minItems", "maxItems", at)
        if "prefixItems" in schema:
            _refuse_others(schema, {"type", "prefixItems"}, at)
            items = [
                self.rule(each, f"{at}/prefixItems/{i}") for i, each in enumerate(_list(schema, "prefixItems", at))
            ]
            return self._added('"[" ws ' + ' "," ws '.join(items) + ' ws "]"', at)
        item = self.rule(schema.get("items", True), f"{at}/items")
        if most == 0:
            return self._added('"[" ws "]"', at)
        upper = "" if most is None else most - 1
        some = f'{item} ("," ws {item}){{{max(least - 1, 0)},{upper}}}'
        return self._added(f'"[" ws {f"{some} ws" if least else f"({some} ws)?"} "]"', at)

    def _string(self, schema: dict[str, Any], at: str) -> str:
        known = FORMATS.get(str(schema.get("format")))
        if known is not None:
            for name in ("date", "time", "uuid"):
                if name in known.split():
                    self._built_in(name)
            return self._added(f'"\\"" {known} "\\""', at)
        least, most = _bounds(schema, "minLength", "maxLength", at)
        upper = "" if most is None else most
        return self._added(f'"\\"" {self._built_in("char")}{{{least},{upper}}} "\\""', at)

    def _built_in(self, name: str) -> str:
        if name not in self._rules:
            body, others = BUILT_IN[name]
            self._rules[name] = body
            for other in others:
                self._built_in(other)
        return name

    def _added(self, body: str, at: str) -> str:
        self._n_chars += len(body)
        if self._n_chars > TEXT_CHARS_MAX:
            raise GrammarError(f"the schema's grammar has more than {TEXT_CHARS_MAX} characters at {at!r}")
        name = f"part{len(self._rules)}"
        self._rules[name] = body
        return name


def _is_index(key: str) -> bool:
    # No list in a schema's text is longer, and int() raises an error of its own for thousands of digits.
    return len(key) <= len(str(TEXT_CHARS_MAX)) and key.isdecimal()


def _implied(schema: dict[str, Any]) -> Any:
    """The type that a schema without one speaks of."""
    kinds = [kind for kind, words in WORDS_OF_TYPE.items() if words & schema.keys()]
    return kinds[0] if len(kinds) == 1 else kinds or list(TYPES)


def _refuse_others(schema: dict[str, Any], known: set[str], at: str) -> None:
    unknown = next((word for word in schema if word not in known and word not in ANNOTATIONS), None)
    if unknown is not None:
        raise GrammarError(f"the schema's {at!r} has {unknown!r}, which is not supported there: leave it out")


def _list(schema: dict[str, Any], word: str, at: str) -> list[Any]:
    several = schema[word]
    if not isinstance(several, list) or not several:
        raise GrammarError(f"the schema's {at!r} has {word!r} that is not a list of one or more")
    return several


def _bounds(schema: dict[str, Any], least_word: str, most_word: str, at: str) -> tuple[int, int | None]:
    least, most = schema.get(least_word, 0), schema.get(most_word)
    for word, bound in ((least_word, least), (most_word, most)):
        if word in schema and (type(bound) is not int or not 0 <= bound <= REPEATS_MAX):
            raise GrammarError(f"the schema's {at!r} has {word!r} {bound!r}: use 0 to {REPEATS_MAX}")
    if most is not None and most < least:
        raise GrammarError(f"the schema's {at!r} has {most_word!r} {most} below {least_word!r} {least}")
    return least, most
