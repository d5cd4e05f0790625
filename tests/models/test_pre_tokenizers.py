"""How each `tokenizer.ggml.pre` cuts text, and what else the name decides."""

from pathlib import Path

import pytest

from fusec.models.tokenizer import Tokenizer, byte_alphabet
from fusec.models.tokenizer.byte_level import MergeTable
from fusec.models.tokenizer.pre import PRE_TOKENIZERS, Pre
from tests.vocabulary import write_vocabulary

ALPHABET = byte_alphabet()
TEXT = "I'LL pay 12345.6 for naïveÉté\n\n  x_y(a, 日本語かな한국)!! \tend  "


def words(cuts: Pre, text: str) -> list[str]:
    """The pieces that merges cannot cross, as text."""
    backend = MergeTable(ALPHABET, [], cuts)._backend
    pieces = backend.pre_tokenizer.pre_tokenize_str(text)
    return [bytes(map(ALPHABET.index, piece)).decode() for piece, _ in pieces]


def test_every_one_keeps_the_text() -> None:
    for name, pre in PRE_TOKENIZERS.items():
        if not pre.is_raw:
            assert "".join(words(pre, TEXT)) == TEXT, name


@pytest.mark.parametrize(
    ("names", "text", "wanted"),
    [
        ("gpt-2 phi-2 mellum", "it's IT'S 1234 !", "it|'s| IT|'|S| 1234| !"),
        ("gpt-2", "a  b\n\nc ", "a| | b|\n|\n|c| "),
        ("smollm command-r", "ab 123\n", "ab| |1|2|3|\n"),
        ("default", "12345+x a", "123|45|+|x| a"),
        ("llama-bpe falcon3 pixtral lfm2 dbrx glm4", "IT'S 1234(.hi", "IT|'S| |123|4|(.|hi"),
        ("llama-bpe", "a\n \n b  c()\n\nd", "a|\n \n| b| | c|()\n\n|d"),
        ("qwen2 stablelm2 megrez", "it's 12 (a)\nb", "it|'s| |1|2| (|a|)\n|b"),
        ("qwen2", "ก็a", "ก|็a"),
        ("qwen35", "ก็a", "ก็a"),
        ("gpt-4o llama4 kanana2", "heWo's XMLFile 1234 a/\nb", "he|Wo's| XMLFile| |123|4| a|/\n|b"),
        ("gpt-4o", "éÉ Éé", "é|É| Éé"),
        ("tekken", "helloWorld's 12", "hello|World|'s| |1|2"),
        ("deepseek-v3 hunyuan-dense joyai-llm", "a1234日本 _x.b)\n", "a|123|4|日本| _|x|.b|)\n"),
        ("deepseek-llm", "ab 123日本 (a\n\nЖя", "ab| |123|日本| (|a|\n|\n|Жя"),
        ("deepseek-coder", "ab 123日本 (a\n", "ab| |1|2|3|日本| (|a|\n"),
        ("falcon", "a`b 1234 c", "a|`|b| |123|4| c"),
        ("bloom poro-chat", "ab, cd. (e", "ab|,| cd|. (|e"),
        ("viking", "ab12, c", "ab|1|2|,| c"),
        ("kimi-k2", "日本語かな aB's 1234", "日本語|かな| a|B's| |123|4"),
        ("superbpe", "a b 1234567 c", "a b |1|234|567| c"),
        ("tiny_aya", "1234567 x", "1|234|567| x"),
        ("afmoe", "12345 ab한국", "12|345| ab|한국"),
        ("youtu", "한국aB", "한국|a|B"),
        ("jais-2", "a     b", "a|    | b"),
        ("seed-coder", "a!\nb", "a|!|\n|b"),
        ("bailingmoe", "a!\n\nb", "a|!\n\n|b"),
        ("exaone-moe", "a b!\n\nc", "a b|!\n|\n|c"),
        ("ufakzeka", "it's", "it|'s"),
        ("minicpm5", "12345", "123|45"),
        ("laguna", "a \nb", "a| |\n|b"),
        ("chameleon", "IMGIMGABZa12", "IMGIMGABZ|a|1|2"),
    ],
)  # fmt: skip
def test_words(names: str, text: str, wanted: str) -> None:
    for name in names.split():
        assert "|".join(words(PRE_TOKENIZERS[name], text)) == wanted, name


def vocabulary(path: Path, **changes: object) -> Tokenizer:
    tokens = ["a", "b", "c", "abc", "ab", "<s>"]
    some = {"tokens": tokens, "token_type": [1] * 5 + [3], "merges": ["a b"], "bos_token_id": 5}
    return Tokenizer.from_gguf(write_vocabulary(path / "pre.gguf", **{**some, **changes}))


def test_a_word_that_is_a_token_needs_no_merges(tmp_path: Path) -> None:
    ignoring = {
        *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        *("glm4", "glm5", "tekken", "minicpm5", "youtu"),
    }
    assert {name for name, pre in PRE_TOKENIZERS.items() if pre.ignores_merges} == ignoring
    for pre, ids in (("llama-bpe", [3]), ("smaug-bpe", [4, 2])):
        assert vocabulary(tmp_path, pre=pre).encode("abc", bos=False) == ids


def test_some_begin_with_bos_unless_told_otherwise(tmp_path: Path) -> None:
    for pre in ("llama-bpe", "lfm2", "tekken"):
        assert vocabulary(tmp_path, pre=pre).encode("a") == [5, 0]
        assert vocabulary(tmp_path, pre=pre, add_bos_token=False).encode("a") == [0]
    for pre in ("gpt-2", "qwen2", "smaug-bpe"):
        assert vocabulary(tmp_path, pre=pre).encode("a") == [0]
        assert vocabulary(tmp_path, pre=pre, add_bos_token=True).encode("a") == [5, 0]


def test_kimi_k2_may_have_no_merges(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, pre="kimi-k2", merges=None).encode("ab") == [0, 1]


def test_gemma_4_merges_utf_8(tmp_path: Path) -> None:
    tokens = ["▁", "a", "é", "▁a", "\n", "\n\n\n", "<0xE2>", "<0x82>", "<0xAC>", "<bos>"]
    changes = {"tokens": tokens, "token_type": [1] * 6 + [6] * 3 + [3], "merges": ["▁ a"]}
    changes |= {"model": "gemma4", "pre": None, "bos_token_id": 9, "add_bos_token": False}
    tokenizer = Tokenizer.from_gguf(write_vocabulary(tmp_path / "g.gguf", **changes))
    text = " a aé\n\n\na\n\n€"
    ids = tokenizer.encode(text)
    assert ids == [9, 3, 3, 2, 5, 1, 4, 4, 6, 7, 8]
    assert tokenizer.decode(ids) == text
