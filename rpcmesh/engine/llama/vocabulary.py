"""Text to token ids and token ids to bytes, by the model's own vocabulary."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.grammar import Words

# Pieces in which a text is counted: some ten milliseconds each, in which no stream gets on.
COUNTED_CHARACTERS = 1 << 14
# More than a cut through the middle of a word adds.
TOKENS_A_CUT = 8
# Most texts have more characters a token than this.
CHARACTERS_A_TOKEN = 4


class Vocabulary:
    """``eog`` are the end-of-generation tokens; ``chat_template`` is the GGUF's default one, as it stands."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama.llama_model_get_vocab(model)
        self._pieces: dict[int, bytes] = {}
        self.n_tokens: int = llama.llama_vocab_n_tokens(self._vocab)
        self.eog = frozenset(token for token in range(self.n_tokens) if llama.llama_vocab_is_eog(self._vocab, token))
        self._bos: int = llama.llama_vocab_bos(self._vocab)
        self.bos_text = self._special_text(self._bos)
        self.eos_text = self._special_text(llama.llama_vocab_eos(self._vocab))
        template = llama.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode(errors="replace") if template else None

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; a control token's text becomes that token. ``add_special``: BOS and EOS as the model says."""
        raw = text.encode()
        # A token is at least one byte, but for the special ones around them and the space some vocabularies add.
        n_max = len(raw) + 8
        tokens = (llama.llama_token * n_max)()
        n_tokens = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, n_max, add_special, True)
        return list(tokens[:n_tokens])

    def exceeds(self, text: str, n_tokens: int) -> bool:
        """Whether a text that is long for so many surely has more; then most of it is not looked at.

        :meth:`tokenize` takes 25 s and a gigabyte for 8 MiB that llama.cpp thinks one word.
        """
        if len(text) <= CHARACTERS_A_TOKEN * n_tokens:
            return False
        n_least = 0
        for start in range(0, len(text) - COUNTED_CHARACTERS, COUNTED_CHARACTERS):
            piece = text[start : start + COUNTED_CHARACTERS]
            n_least += len(self.tokenize(piece, add_special=False)) - TOKENS_A_CUT
            if n_least > n_tokens:
                return True
        return False

    def tokenize_chat(self, rendered: str) -> list[int]:
        """Like :meth:`tokenize`, for a rendered template: most write their own BOS, and two would be one too many."""
        tokens = self.tokenize(rendered, add_special=False)
        if llama.llama_vocab_get_add_bos(self._vocab) and tokens[:1] != [self._bos]:
            return [self._bos, *tokens]
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in text; none for a control token. They may be part of a code point."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    @cached_property
    def words(self) -> Words:
        """All tokens that stand for text, for a grammar to be held against. None of them ends the generation."""
        return Words((token, self.piece(token)) for token in range(self.n_tokens) if token not in self.eog)

    def _special_text(self, token: int) -> str:
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        n_bytes = 64
        while True:
            buffer = ctypes.create_string_buffer(n_bytes)
            written = llama.llama_token_to_piece(self._vocab, token, buffer, n_bytes, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            n_bytes = -written
