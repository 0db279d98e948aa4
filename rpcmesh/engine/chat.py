"""Chat messages become one prompt, by the model's own Jinja template. The template is foreign code: sandboxed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rpcmesh.engine.messages import ChatMessage
from rpcmesh.errors import RpcmeshError

# For a GGUF without a template: the format most instruction-tuned models without one were trained on.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# What a template can raise beside Jinja's own errors: it indexes, adds and formats whatever the messages hold.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatError(RpcmeshError):
    """The template is not valid, or it refuses these messages."""


class ChatTemplate:
    """A compiled chat template. ``source`` None means that the GGUF has none: ChatML it is.

    The environment and the two functions are those that the templates of published models are written for, see
    ``chat_template_utils.py`` in huggingface/transformers. Raises :class:`ChatError`.
    """

    def __init__(self, source: str | None, *, bos: str, eos: str, strftime_now: Callable[[str], str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = strftime_now
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(CHATML if source is None else source)
        except _TEMPLATE_FAULTS as error:
            raise ChatError(f"the model's chat template is not valid: {error}") from error

    def render(self, messages: tuple[ChatMessage, ...]) -> str:
        """The prompt, ending where the assistant's answer begins. Raises :class:`ChatError`."""
        if not messages:
            raise ChatError("a chat needs at least one message")
        try:
            return self._template.render(
                messages=[_as_template_sees(message) for message in messages],
                add_generation_prompt=True,
                **self._tokens,
            )
        except _TEMPLATE_FAULTS as error:
            raise ChatError(f"the model's chat template refuses these messages: {error}") from error


def _as_template_sees(message: ChatMessage) -> dict[str, str]:
    seen = {"role": message.role, "content": message.content}
    return seen if message.name is None else seen | {"name": message.name}


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which a prompt is not.
    encoded = msgspec.json.encode(value)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
