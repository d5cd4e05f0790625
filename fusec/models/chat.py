"""Chat templates: the jinja2 text in `tokenizer.chat_template`, rendered in a sandbox.

The variables and functions are those that Hugging Face's `apply_chat_template` offers and that the
templates are written against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile

KEY = "tokenizer.chat_template"


class ChatTemplate:
    """A model's way of writing a conversation as one prompt.

    The template comes with the file, so it runs in jinja2's immutable sandbox and every failure is
    a FusecError naming the file.
    """

    def __init__(self, source: str, path: Path, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self._path = path
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals.update(
            bos_token=bos_token,
            eos_token=eos_token,
            raise_exception=_raise_exception,
            strftime_now=lambda form: datetime.now().strftime(form),
        )
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise self._fail(error) from error

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ChatTemplate:
        """The file's template. Raises FusecError when it has none."""
        if KEY not in file.metadata:
            raise FusecError(f"{file.path}: no chat template in the file ({KEY} is missing)")
        tokens = file.get("tokenizer.ggml.tokens", list, [])

        def text(key: str) -> str:
            token = file.get(f"tokenizer.ggml.{key}", int, -1)
            return str(tokens[token]) if 0 <= token < len(tokens) else ""

        source = file.get(KEY, str)
        return cls(source, file.path, text("bos_token_id"), text("eos_token_id"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, each with a `role` and a `content`.

        With `add_generation_prompt` it ends where the model's answer begins. Other `variables`
        (such as `tools`) are passed to the template.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **variables
            )
        # A template is a program: besides jinja2's own errors it can divide by zero.
        except Exception as error:
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> FusecError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FusecError(f"{self._path}: the chat template failed: {reason}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
