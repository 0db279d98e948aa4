"""What a request asks of its answer's form, made ready to be followed. No llama.cpp."""

from __future__ import annotations

from rpcmesh.engine.gbnf import parse_gbnf
from rpcmesh.engine.grammar import Matcher
from rpcmesh.engine.json_schema import schema_to_gbnf
from rpcmesh.engine.messages import Constraint, GbnfGrammar


def matcher(constraint: Constraint) -> Matcher:
    """At the beginning of an answer. Raises :class:`GrammarError` for a grammar or schema that is not valid."""
    text = constraint.text if isinstance(constraint, GbnfGrammar) else schema_to_gbnf(constraint.text)
    return Matcher(parse_gbnf(text))
