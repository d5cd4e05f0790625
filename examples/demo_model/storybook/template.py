"""Templates: text with choices and fields, expanded by a random generator.

    template := part*
    part     := "[" template ("|" template)* "]"    one of them
              | "{" name ("." name)* "}"            a role of the story, or an attribute of it
              | "<" | ">"                           a quotation mark
              | "~"                                 a new paragraph
              | text                                white space is one space

A field whose value is text is a template too. Sentences get their capital letters at the end, so a
field may stand first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from random import Random
from typing import Any, TypeAlias

Part: TypeAlias = "str | Field | Choice"
Sequence: TypeAlias = "tuple[Part, ...]"


class Field(tuple[str, ...]):
    """The names of `{a.b}`."""


class Choice(tuple[Sequence, ...]):
    """The alternatives of `[a|b]`."""


TOKEN = re.compile(r"[\[\]|]|\{[a-zA-Z0-9_.]+\}|[^\[\]|{}]+")


@cache
def parse(text: str) -> Sequence:
    """A template as a tree. Raises ValueError for brackets that do not match."""
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"stray brace in template: {text!r}")
    parts, end = _sequence(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"stray '{tokens[end]}' in template: {text!r}")
    return parts


def _sequence(tokens: list[str], at: int) -> tuple[Sequence, int]:
    parts: list[Part] = []
    while at < len(tokens) and tokens[at] not in ("|", "]"):
        token = tokens[at]
        if token == "[":
            choices = []
            while tokens[at] != "]":
                choice, at = _sequence(tokens, at + 1)
                choices.append(choice)
                if at == len(tokens):
                    raise ValueError("'[' without ']' in a template")
            parts.append(Choice(choices))
        elif token[0] == "{":
            parts.append(Field(token[1:-1].split(".")))
        else:
            parts.append(token)
        at += 1
    return tuple(parts), at


def settle(text: str, random: Random) -> str:
    """The template with its choices made and its fields left, to say the same thing twice."""
    return "".join(_settled(parse(text), random))


def _settled(parts: Sequence, random: Random) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Choice):
            yield from _settled(random.choice(part), random)
        else:
            yield "{" + ".".join(part) + "}" if isinstance(part, Field) else part


def expand(text: str, roles: Mapping[str, Any], random: Random) -> str:
    """The text of one random expansion, not yet tidied."""
    out: list[str] = []
    _expand(parse(text), roles, random, out)
    return "".join(out)


def _expand(parts: Sequence, roles: Mapping[str, Any], random: Random, out: list[str]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, Choice):
            _expand(part[int(random.random() * len(part))], roles, random, out)
        else:
            value = roles[part[0]]
            for name in part[1:]:
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            if isinstance(value, str):
                _expand(parse(value), roles, random, out)
            else:
                out.append(str(value))


SENTENCE = re.compile(r'(^|\n|[.!?] |[.]" |[.!?] "|\n")([a-z])')


def tidy(text: str) -> str:
    """Quotation marks, paragraphs, single spaces, and a capital letter for every sentence.

    After a question or an exclamation in quotation marks there may follow who said it, so there the
    template writes the capital itself.
    """
    text = " ".join(text.replace("<", '"').replace(">", '"').split())
    text = re.sub(r" ([.,!?])", r"\1", text)
    text = re.sub(r"[ ]?~[ ]?", "\n\n", text).strip()
    return SENTENCE.sub(lambda found: found[1] + found[2].upper(), text)
