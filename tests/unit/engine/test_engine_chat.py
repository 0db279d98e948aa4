"""Chat templates: rendered as their authors expect, and kept from doing anything else."""

from __future__ import annotations

import pytest

from rpcmesh.engine.chat import ChatError, ChatTemplate
from rpcmesh.engine.messages import ChatMessage

HELLO = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hi {{ 7 * 7 }} <b>"))


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", strftime_now=lambda pattern: f"[{pattern}]")


def test_without_a_template_it_is_chatml() -> None:
    assert template(None).render(HELLO) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi {{ 7 * 7 }} <b><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_leave_no_white_space_and_loops_have_break() -> None:
    source = """{{ bos_token }}
    {% for message in messages %}
        {% if message.role == 'user' %}{% break %}{% endif %}
{{ message['content'] }}{{ eos_token }}
    {% endfor %}
"""
    assert template(source).render(HELLO) == "<s>\nBe brief.</s>\n"


def test_a_template_sees_names_dates_and_the_generation_prompt() -> None:
    source = (
        "{{ messages[0].name }}|{{ messages[1].name is defined }}|{{ strftime_now('%Y') }}|{{ add_generation_prompt }}"
    )
    messages = (ChatMessage("user", "x", name="ann"), ChatMessage("user", "y"))
    assert template(source).render(messages) == "ann|False|[%Y]|True"


def test_json_is_not_escaped_for_html() -> None:
    assert template("{{ messages[0].content | tojson }}").render((ChatMessage("user", "<é>"),)) == '"<é>"'


def test_the_templates_own_refusal_is_the_message() -> None:
    with pytest.raises(ChatError, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[9].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_fault_in_the_template_is_one_clear_error(source: str) -> None:
    with pytest.raises(ChatError, match="the model's chat template refuses these messages: "):
        template(source).render(HELLO)


def test_a_template_that_does_not_compile_is_refused_at_once() -> None:
    with pytest.raises(ChatError, match="the model's chat template is not valid: "):
        template("{% if %}")


def test_no_messages_is_an_error() -> None:
    with pytest.raises(ChatError, match="at least one message"):
        template(None).render(())
