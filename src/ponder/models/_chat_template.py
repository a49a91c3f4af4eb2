"""Chat templates: messages as the plain text that a model was trained on, up to where its answer begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ponder.core.problem import Message
from ponder.errors import ParameterError

Render = Callable[[Sequence[Message]], str]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)


@lru_cache
def chat_template(source: str) -> Render:
    """A renderer from `chatml`, or from a file with a Jinja template as tokenizers carry them.

    The template is run in a sandbox. It sees `messages`, `add_generation_prompt` (true) and empty `bos_token` and
    `eos_token`: servers put the first token before a plain prompt themselves.

    Raises:
        ParameterError: no such file, or no template in it.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(_text(source))
    except TemplateError as error:
        raise ParameterError("openai", "template", source, allowed="a Jinja template", hint=str(error)) from None

    def render(messages: Sequence[Message]) -> str:
        known: dict[str, Any] = {"add_generation_prompt": True, "bos_token": "", "eos_token": ""}
        try:
            return template.render(messages=[dict(message) for message in messages], **known)
        except TemplateError as error:
            raise ParameterError(
                "openai", "template", source, allowed="a template for these messages", hint=str(error)
            ) from None

    return render


def template_digest(source: str) -> str:
    """Changes whenever the template does."""
    return blake2b(_text(source).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@lru_cache
def _text(source: str) -> str:
    if source == "chatml":
        return CHATML
    try:
        return Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            "openai", "template", source, allowed="chatml, or a readable file with a Jinja template", hint=str(error)
        ) from None
