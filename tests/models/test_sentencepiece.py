"""SentencePiece merging against its definition, also where a table of merges gets it wrong."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.errors import FusecError
from fusec.models.gguf_file import open_gguf
from fusec.models.tokenizer import SPACE, Tokenizer, TokenType
from fusec.models.tokenizer.sentencepiece import SentencePiece
from tests.vocabulary import pieces, write_vocabulary

NEVER_MERGED = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)


def by_definition(scores: dict[str, float], text: str) -> list[str]:
    """The merge as its definition says it: best score first, leftmost on ties."""
    symbols = list(text.replace(" ", SPACE))
    while True:
        pairs = ["".join(symbols[at : at + 2]) for at in range(len(symbols) - 1)]
        ranked = [(-scores[pair], at) for at, pair in enumerate(pairs) if pair in scores]
        if not ranked:
            return symbols
        at = min(ranked)[1]
        symbols[at : at + 2] = [pairs[at]]


def cut(scores: dict[str, float], text: str) -> list[str]:
    """The same by SentencePiece."""
    letters = sorted({*text.replace(" ", SPACE)} - {*scores})
    texts = [*scores, *letters]
    values = [*scores.values(), *[0.0] * len(letters)]
    model = SentencePiece(texts, [TokenType.NORMAL] * len(texts), values, {}, None)
    return [texts[token] for token in model.encode(text)]


def test_equal_scores_merge_from_the_left() -> None:
    for scores in ({"ab": -1.0, "bc": -1.0}, {"bc": -1.0, "ab": -1.0}):
        assert cut(scores, "abc") == ["ab", "c"]
        assert cut(scores, "bcabc") == ["bc", "ab", "c"]
    assert cut({"aa": 0.0}, "aaaaa") == ["aa", "aa", "a"]
    assert cut({"aa": 0.0, "aaa": 0.0}, "aaaaa") == ["aaa", "aa"]


def test_a_better_piece_may_need_a_worse_one_first() -> None:
    scores = {"ab": -9.0, "abc": -1.0, "cd": -2.0}
    assert cut(scores, "abcd") == ["ab", "cd"]  # cd before ab, and then no abc
    assert cut(scores, "abc") == ["abc"]


def test_any_two_neighbours_that_are_a_piece_merge() -> None:
    """However a merge table would cut the piece: here abcd is made of a + bcd and of abc + d."""
    scores = {"bc": 0.0, "bcd": -1.0, "abc": -2.0, "abcd": -3.0}
    assert cut(scores, "abcd") == ["abcd"]
    assert cut(scores, "abcabcd") == ["abc", "abcd"]


letters = st.sampled_from("ab ")
words = st.text(letters, min_size=2, max_size=4).map(lambda text: text.replace(" ", SPACE))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(words, st.integers(-3, 0).map(float), max_size=14),
    st.text(st.sampled_from("ab c"), max_size=24),
)
def test_any_scores(scores: dict[str, float], text: str) -> None:
    """Ties, scores that fall and rise, and pieces with spaces anywhere in them."""
    assert cut(scores, text) == by_definition(scores, text)


def test_a_trained_vocabulary(shared_data: Path) -> None:
    file = open_gguf(shared_data / "stories260K.gguf")
    tokenizer = Tokenizer.from_gguf(file)
    listed = zip(tokenizer.tokens, file.metadata["tokenizer.ggml.scores"], strict=True)
    scores = {t: s for (t, s), k in zip(listed, tokenizer.types, strict=True) if k == 1}
    rng = random.Random(0)
    texts = ["aaaa aaaaa banana mississippi", "<0x41><s></s>", "日本語 é\x00\n", " ", ""]
    texts += ["".join(rng.choices("aeiotnshrlbd  é\n,", k=rng.randrange(40))) for _ in range(200)]
    for text in texts:
        ids = tokenizer.encode(text, special=False, bos=False)
        wanted = []
        for symbol in by_definition(scores, f" {text}") if text else []:
            raw = [f"<0x{byte:02X}>" for byte in symbol.encode()]
            wanted += [symbol] if symbol in scores else raw
        assert [tokenizer.tokens[token] for token in ids] == wanted, repr(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text, special=False) == [1, *ids]


def test_characters_without_a_piece(tmp_path: Path) -> None:
    some = pieces(("a", 0.0), (SPACE, 0.0), special="<s> </s>", bytes="é")
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "bytes.gguf", **some))
    assert tokenizer.encode("aé", bos=False) == [5, 4, 2, 3]
    with pytest.raises(FusecError, match="the text has 'z', for which the vocabulary has no token"):
        tokenizer.encode("az")
    kinds = [int(TokenType.UNKNOWN), *some["token_type"][1:]]  # type: ignore[index]
    unknown = {**some, "token_type": kinds, "unknown_token_id": 0}
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "unknown.gguf", **unknown))
    assert tokenizer.encode("azzya zé", bos=False) == [5, 4, 0, 4, 5, 0, 2, 3], "a run is one"


def test_user_defined_tokens_are_found_first_and_merge_too(tmp_path: Path) -> None:
    some = pieces(("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -1.0), ("bc", 0.0), (SPACE * 2, -5.0))
    some |= {"token_type": [1, 1, 1, 4, 1, 4], "add_space_prefix": False, "add_bos_token": False}
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "user.gguf", **some))
    assert tokenizer.encode("abc") == [3, 2]
    assert tokenizer.encode("abc", special=False) == [3, 2]
    assert tokenizer.encode("a  b") == [0, 5, 1], "written with the space of pieces: by merging"


def test_long_texts_are_quick(shared_data: Path) -> None:
    tokenizer = Tokenizer.from_gguf(open_gguf(shared_data / "stories260K.gguf"))
    start = time.process_time()
    for text in ("once upon a time there was " * 400, "x" * 10_000):  # one word as well
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - start < 2  # ten times what it takes, not n squared
