"""What tokens mean, from the metadata alone: ends of answers, types put right, default ids."""

from pathlib import Path

import pytest

from fusec.models.gguf_file import GGUFFile
from fusec.models.tokenizer import Tokenizer, TokenType, Vocabulary
from fusec.models.tokenizer.vocabulary import END_TEXTS
from tests.vocabulary import pieces, write_vocabulary


def with_tokens(path: Path, *tokens: str, kind: int = 3, **changes: object) -> GGUFFile:
    """A vocabulary of these tokens, all of one type, and then a, b and ab."""
    types = [kind] * len(tokens) + [1, 1, 1]
    changes = {"tokens": [*tokens, "a", "b", "ab"], "token_type": types, **changes}
    return write_vocabulary(path / "vocabulary.gguf", **changes)


def ends(file: GGUFFile) -> list[str]:
    vocabulary = Vocabulary(file)
    return [vocabulary.texts[token] for token in sorted(vocabulary.ends)]


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_ends_by_text_whatever_their_type(tmp_path: Path, kind: int) -> None:
    alone = sorted(END_TEXTS - {"<|call|>", "<|calls|>", "<|tool_response>"})
    others = ["<|fim_hole|>", "<|im_start|>", "<|im_end", "<s>", "<|fim_prefix|>"]
    file = with_tokens(tmp_path, *alone, *others, kind=kind)
    assert ends(file) == alone
    vocabulary = Vocabulary(file)
    assert all(vocabulary.types[token] == TokenType.CONTROL for token in vocabulary.ends)


def test_ends_by_key(tmp_path: Path) -> None:
    for key in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"):
        file = with_tokens(tmp_path, "<x>", "<y>", **{f"{key}_token_id": 1})
        assert ends(file) == ["<y>"], key
        zero = with_tokens(tmp_path, "<x>", "<y>", **{f"{key}_token_id": 0})
        assert ends(zero) == ["<x>"], "the first token is one as well"
    for key in ("bos", "padding", "unknown", "fim_pre", "fim_suf", "fim_mid"):
        assert ends(with_tokens(tmp_path, "<x>", "<y>", **{f"{key}_token_id": 1})) == [], key
    assert ends(with_tokens(tmp_path, "<x>", eos_token_id=7)) == []


def test_ends_of_filling_in_the_middle(tmp_path: Path) -> None:
    names = ("<fim_pad>", "<reponame>", "<|file_sep|>")
    assert ends(with_tokens(tmp_path, "<fim_prefix>", *names)) == [*names]
    by_key = with_tokens(tmp_path, *names, "<pad>", fim_pad_token_id=3)
    assert ends(by_key) == ["<reponame>", "<|file_sep|>", "<pad>"]


def test_where_a_message_is_not_the_answer(tmp_path: Path) -> None:
    harmony = ("<|end|>", "<|return|>", "<|call|>", "<|channel|>")
    file = with_tokens(tmp_path, *harmony)
    assert ends(file) == ["<|return|>", "<|call|>"]
    assert Vocabulary(file).types[:4] == [4, 3, 3, 4], "what is not the end is shown"
    assert ends(with_tokens(tmp_path, "<|end|>", "<|flush|>", "<|calls|>"))[0] == "<|flush|>"
    assert "<|end|>" in ends(with_tokens(tmp_path, "<|end|>", "<|call|>"))
    html = with_tokens(tmp_path, "</s>", "<turn|>", "<|tool_response>", kind=4)
    assert ends(html) == ["<turn|>", "<|tool_response>"]
    assert Vocabulary(html).types[0] == TokenType.NORMAL
    plamo = with_tokens(tmp_path, "</s>", "<|plamo:eos|>", eos_token_id=1)
    assert ends(plamo) == ["<|plamo:eos|>"]


def test_ends_written_in_a_prompt_are_tokens(tmp_path: Path) -> None:
    """A converter that called them ordinary does not make them text, nor visible."""
    tokenizer = Tokenizer.from_gguf(with_tokens(tmp_path, "<|eot_id|>", kind=1))
    assert tokenizer.encode("a<|eot_id|>a") == [1, 0, 1]
    assert tokenizer.decode([1, 0, 1]) == "aa"
    assert 0 not in tokenizer.encode("a<|eot_id|>a", special=False)


def test_default_ids(tmp_path: Path) -> None:
    some = pieces(("a", 0.0), special="<unk> <s> </s>")
    assert ends(write_vocabulary(tmp_path / "a.gguf", **some)) == ["</s>"]
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "b.gguf", **some))
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)
    assert tokenizer.encode("") == [1]
    plain = pieces(("a", 0.0), ("b", 0.0), ("c", 0.0))
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "c.gguf", **plain))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.stop_ids) == (None, None, frozenset())


def test_beginnings_and_ends_are_added_once(tmp_path: Path) -> None:
    flags = {"bos_token_id": 0, "eos_token_id": 1}
    for add_bos in (True, False):
        both = with_tokens(tmp_path, "<s>", "</s>", **flags, add_bos_token=add_bos)
        tokenizer = Tokenizer.from_gguf(both)
        start = [0] if add_bos else []
        assert tokenizer.encode("aa") == [*start, 2, 2]
        assert tokenizer.encode("<s>aa") == [0, 2, 2], "typed: one, not two"
        assert tokenizer.encode("<s><s>a") == [0, 0, 2], "typed twice: that is what was asked for"
        assert tokenizer.encode("<s>a", bos=True) == [0, 2]
        assert tokenizer.encode("a", bos=False) == [2]
        assert tokenizer.encode("a", bos=False, eos=True) == [2, 1]
    ending = with_tokens(tmp_path, "<s>", "</s>", **flags, add_bos_token=True, add_eos_token=True)
    tokenizer = Tokenizer.from_gguf(ending)
    assert tokenizer.encode("a") == tokenizer.encode("<s>a</s>") == [0, 2, 1]
    assert tokenizer.encode("a", eos=False) == [0, 2]
    assert tokenizer.encode("a", bos=False) == [2]


def test_phi_3_drops_space_behind_special_tokens(tmp_path: Path) -> None:
    tokens = pieces(("a", 0.0), ("▁", 0.0), special="<s> <|end|>") | {"add_space_prefix": False}
    for name, kept in (("Phi-3 mini", []), ("phi3", []), ("other", [3])):
        file = write_vocabulary(tmp_path / "phi.gguf", **tokens, **{"general.name": name})
        encoded = Tokenizer.from_gguf(file).encode("<s> a<|end|> a", bos=False)
        assert encoded == [0, 3, 2, 1, *kept, 2]


@pytest.mark.parametrize("found", [["<a>", "<a>b"], ["<a>b", "<a>"]])
def test_the_longest_of_several_tokens_is_found(tmp_path: Path, found: list[str]) -> None:
    tokenizer = Tokenizer.from_gguf(with_tokens(tmp_path, *found, "b>", "\n", kind=4))
    assert [tokenizer.tokens[token] for token in tokenizer.encode("<a>b>a<a>")] == [
        *("<a>b", "a", "<a>")
    ]
