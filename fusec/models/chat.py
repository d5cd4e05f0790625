"""Chat templates: the jinja2 text in `tokenizer.chat_template`, rendered in a sandbox.

The environment, its functions and its variables are those of Hugging Face's `apply_chat_template`
(transformers, utils/chat_template_utils.py), which the templates are written against.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fusec.arguments import mistaken
from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile
from fusec.models.tokenizer import Tokenizer, Vocabulary

KEY = "tokenizer.chat_template"

# What templates call the tokens, and what GGUF does.
TOKEN_VARIABLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "sep",
    "cls_token": "cls",
    "mask_token": "mask",
}


class GenerationTag(Extension):
    """`{% generation %}`, which marks an assistant's words for training: its body, as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node:
        """The tag's body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class ChatTemplate:
    """A model's way of writing a conversation as one prompt.

    `tokens` are further token variables, as `pad_token`. The template comes with the file, so it
    runs in jinja2's immutable sandbox and every failure is a FusecError naming the file.
    """

    def __init__(
        self, source: str, path: Path, bos_token: str = "", eos_token: str = "", **tokens: str
    ) -> None:
        self.source = source
        self._path = path
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token, **tokens}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(
            raise_exception=_raise_exception,
            strftime_now=lambda form: datetime.now().strftime(form),
        )
        try:
            self._template = environment.from_string(source)
        # besides jinja2's own errors, those of the Python code it makes of a template
        except Exception as error:
            raise self._fail(error) from error

    @classmethod
    def from_gguf(cls, file: GGUFFile, source: str | None = None) -> ChatTemplate:
        """The file's template; of several, the one named 'default', or the only one.

        `source` is a template to use instead, with the file's tokens. Raises FusecError when there
        is none, or several and no default.
        """
        vocabulary = Vocabulary(file)
        tokens = {
            variable: text
            for variable, name in TOKEN_VARIABLES.items()
            if (text := vocabulary.text_of(name)) is not None
        }
        if source is not None:
            return cls(source, Path("--chat-template"), **tokens)
        return cls(file.get(_key(file), str), file.path, **tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, each with a `role` and a `content`.

        With `add_generation_prompt` it ends where the model's answer begins. Other `variables`
        (such as `tools`) are passed to the template. Raises FusecError for a message that is no
        mapping or has no role, and for whatever the template does not take.
        """
        _check_messages(messages)
        given: dict[str, Any] = {"tools": None, "documents": None, **self._tokens, **variables}
        given |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(given)
        # A template is a program: besides jinja2's own errors it can divide by zero.
        except Exception as error:
            raise self._fail(error) from error

    def encode(self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> list[int]:
        """A conversation as tokens, up to where the answer begins.

        As in llama.cpp it begins with one BOS if the vocabulary says that texts do, whether or not
        the template writes it; if not, with what the template writes. No EOS: the answer is still
        to come. Raises FusecError as `render` does, and where there are no tokens.
        """
        if ids := tokenizer.encode(self.render(messages), eos=False):
            return ids
        raise FusecError(f"{self._path}: the chat template makes no tokens of the conversation")

    def _fail(self, error: Exception) -> FusecError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FusecError(f"{self._path}: the chat template failed: {reason}")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise FusecError unless each has a role: whether a content is needed, the template says."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise mistaken("messages", "a list of mappings with role and content", messages)
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise mistaken(f"message {place}", "a mapping with role and content", message)
        if "role" not in message:
            keys = ", ".join(map(str, message)) or "none"
            raise FusecError(f"message {place}: expected the key 'role', found the keys {keys}")


def _key(file: GGUFFile) -> str:
    """The metadata key of the template to use."""
    named = {key.removeprefix(f"{KEY}."): key for key in file.metadata if key.startswith(f"{KEY}.")}
    if KEY in file.metadata:
        return KEY
    if "default" in named:
        return named["default"]
    if not named:
        raise FusecError(f"{file.path}: no chat template in the file ({KEY} is missing)")
    if len(named) > 1:
        raise FusecError(
            f"{file.path}: expected a chat template {KEY}, found only those for special uses: "
            f"{', '.join(sorted(named))}"
        )
    return next(iter(named.values()))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Python writes it; jinja2's own filter writes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
