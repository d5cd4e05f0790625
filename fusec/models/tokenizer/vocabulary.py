"""What the tokens of a file are: their types, the ids with a meaning, and those that end an answer.

Everything here is known from the metadata alone, whether or not text can be made into these tokens:
a model whose tokenizer is not supported still stops where it should. The texts and the order of
the steps are those of llama.cpp (`llama_vocab::impl::load` in src/llama-vocab.cpp), which corrects
what converters got wrong.
"""

from __future__ import annotations

from collections import defaultdict
from enum import IntEnum

from fusec.models.gguf_file import GGUFFile


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Tokens that end an answer, whatever type and end of text the file gives.
END_TEXTS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
    *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "[e~["),
    "<｜end▁of▁sentence｜>",
}

# Tokens for filling in the middle, by the key that names one; without the key, its text does.
FIM_TEXTS: dict[str, tuple[str, ...]] = {
    "fim_pre": (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>"),
        *("<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    ),
    "fim_suf": (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>"),
        *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    ),
    "fim_mid": (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>"),
        *("<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
ENDS_BY_KEY = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# gpt-oss writes its channels with these: they are shown.
SHOWN_TEXTS = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}

# Phi-3's special tokens swallow the white space behind them, all but these.
KEEP_SPACE_BEHIND = {"<unk>", "<s>", "<|endoftext|>"}

KEYS = {"unknown": "unknown_token_id", "padding": "padding_token_id", "sep": "seperator_token_id"}

# The ids of files that name none, where the token there is of that type. gpt2: Falcon's.
DEFAULTS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {"bos": 11, "eos": 11}}

WORTH_FINDING = END_TEXTS.union(SHOWN_TEXTS, *FIM_TEXTS.values(), {"<|plamo:eos|>"})


class Vocabulary:
    """The tokens of a file. `texts` is empty where it has none.

    `types`: one `TokenType` a token, corrected. `ends`: the ids that end an answer. `trimming`: the
    ids behind which a prompt's white space is dropped. A key that names no token counts as missing.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.texts: list[str] = file.get("tokenizer.ggml.tokens", list, [])
        types: list[int] = file.get("tokenizer.ggml.token_type", list, [])
        fits = len(types) == len(self.texts)
        self.types: list[int] = [*types] if fits else [TokenType.NORMAL] * len(self.texts)
        self._file = file
        self._defaults = DEFAULTS.get(file.get("tokenizer.ggml.model", str, ""), {})
        named: dict[str, list[int]] = defaultdict(list)
        for token, text in enumerate(self.texts):
            if text in WORTH_FINDING:
                named[text].append(token)
        self.ends = self._find_ends(named)
        self.trimming = self._find_trimming()

    def id_of(self, name: str) -> int | None:
        """The token that `tokenizer.ggml.<name>_token_id` names, as 'bos' or 'unknown', or None."""
        token = self._file.get(key_of(name), int, -1)
        if token >= 0 and (not self.texts or token < len(self.texts)):
            return token
        token = self._defaults.get(name, len(self.texts))
        wanted = TokenType.UNKNOWN if name == "unknown" else TokenType.CONTROL
        return token if token < len(self.texts) and self.types[token] == wanted else None

    def text_of(self, name: str) -> str | None:
        """That token's text."""
        token = self.id_of(name)
        return None if token is None or token >= len(self.texts) else self.texts[token]

    def _find_ends(self, named: dict[str, list[int]]) -> frozenset[int]:
        """The ids that end an answer; sets the types of tokens with a known text right."""
        keyed = {name: self.id_of(name) for name in (*ENDS_BY_KEY, *FIM_TEXTS)}
        for name, texts in FIM_TEXTS.items():
            found = [token for text in texts for token in named.get(text, ())]
            if keyed[name] is None and found:
                keyed[name] = min(found)
                self.types[min(found)] = TokenType.CONTROL
        by_text = {token for text in END_TEXTS for token in named.get(text, ())}
        for token in by_text:
            self.types[token] = TokenType.CONTROL
        for text in SHOWN_TEXTS:
            for token in named.get(text, ()):
                self.types[token] = TokenType.USER_DEFINED
        ends = by_text | {end for name in ENDS_BY_KEY if (end := keyed[name]) is not None}

        def has(*texts: str) -> bool:
            return any(token in ends for text in texts for token in named.get(text, ()))

        # gpt-oss and Solar Open: a message ends here, the answer may go on with another
        if has("<|call|>", "<|calls|>") and has("<|flush|>", "<|return|>"):
            ends -= self._retype(named.get("<|end|>", []), TokenType.USER_DEFINED)
        if has("<|tool_response>", "<|plamo:eos|>"):  # Gemma 4, PLaMo: `</s>` is HTML
            ends -= self._retype(named.get("</s>", []), TokenType.NORMAL)
        return frozenset(ends)

    def _retype(self, tokens: list[int], kind: TokenType) -> set[int]:
        for token in tokens:
            self.types[token] = kind
        return set(tokens)

    def _find_trimming(self) -> frozenset[int]:
        name = str(self._file.metadata.get("general.name")).lower()
        if "phi-3" not in name and "phi3" not in name:
            return frozenset()
        special = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        return frozenset(
            token
            for token, text in enumerate(self.texts)
            if self.types[token] in special and text not in KEEP_SPACE_BEHIND
        )


def key_of(name: str) -> str:
    """The metadata key of the id of 'bos', 'eos', 'unknown' and the like."""
    return f"tokenizer.ggml.{KEYS.get(name, f'{name}_token_id')}"
