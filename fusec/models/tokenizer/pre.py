"""How text is cut into words before byte-level BPE, by `tokenizer.ggml.pre`.

Each expression in turn cuts what the last one left, into what it matches and what lies between. The
names, and what else a name stands for, are those of llama.cpp (src/llama-vocab.cpp). So are the
expressions, but where llama.cpp says beside them that it had to adapt a model's own to its regex
engine: Oniguruma, which `tokenizers` and this file use, takes the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # one sign may lead
LLAMA3 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{SIGNS}|{SPACES}"
QWEN2 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{SIGNS}|{SPACES}"


def cased(*, behind: str = "", digits: str, signs: str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*") -> str:
    """Words cut where lower case becomes upper: gpt-4o's expression, and those made after it."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = f"{lead}{upper}*{lower}+{behind}|{lead}{upper}+{lower}*{behind}"
    return f"{words}|{digits}|{signs}|{SPACES}"


GPT4O = cased(behind=f"{CONTRACTIONS}?", digits=r"\p{N}{1,3}")
KIMI = GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"[\r\n/]*", r"[\r\n]*")

ASCII_SIGN = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
DEEPSEEK_WORDS = rf"{ASCII_SIGN}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    rf"{DEEPSEEK_WORDS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}",
)
BICAMERAL = (  # letters that have two cases
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-"
    "ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃ"
    "ↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
CJK = "[一-龥ࠀ-一가-\ud7ff]+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
SOUTHEAST_ASIAN = (
    "[一-\u9fff㐀-\u4dbf\uf900-\ufaff\u3040-ゟ゠-ヿ･-\uff9f⼀-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "ក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+"
)


@dataclass(frozen=True)
class Pre:
    """A way of cutting text. `cuts`: expressions in the syntax of Oniguruma.

    `ignores_merges`: a word that is a token is that token, however merges would make it.
    `adds_bos`: whether a text begins with BOS where the file does not say. `is_raw`: tokens are
    UTF-8 with SPACE for a space, not letters for bytes. `has_merges`: False where a file may have
    none.
    """

    cuts: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    is_raw: bool = False
    has_merges: bool = True


def _same(names: str, *cuts: str, pre: Pre | None = None) -> dict[str, Pre]:
    return dict.fromkeys(names.split(), pre or Pre(cuts))


_LLAMA3 = Pre((LLAMA3,), ignores_merges=True, adds_bos=True)
_TEKKEN = replace(_LLAMA3, cuts=(cased(digits=r"\p{N}"),))
_RAW = Pre((r"[^\n]+|[\n]+",), is_raw=True)

PRE_TOKENIZERS: dict[str, Pre] = {
    **_same("default", r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    **_same("gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 mellum", GPT2),
    **_same("gigachat a.x-4.0", GPT2),
    **_same("smollm starcoder refact command-r codeshell exaone minerva-7b", r"\p{N}", GPT2),
    **_same("mellum2", r"\p{N}", GPT2),
    **_same("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", pre=_LLAMA3),
    **_same("smaug-bpe dbrx chatglm-bpe", LLAMA3),
    **_same("glm4 glm5", pre=Pre((LLAMA3,), ignores_merges=True)),
    **_same(
        "jais-2",
        LLAMA3.removesuffix(r"\s+(?!\S)|\s+")
        + "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
        + r"\s{1}",
    ),
    **_same("qwen2 deepseek-r1-qwen stablelm2 hunyuan kormo f2llmv2 megrez", QWEN2),
    **_same("grok-2 solar-open", QWEN2),
    **_same("laguna", r"[^\n]+|[\n]+", QWEN2),
    **_same("ufakzeka", QWEN2.removeprefix(f"{CONTRACTIONS}|")),
    **_same(
        "qwen35",
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}",
    ),
    **_same(
        "seed-coder",
        rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}",
    ),
    **_same(
        "bailingmoe bailingmoe2 llada-moe",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    **_same(
        "exaone-moe",
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    **_same(
        "minicpm5",
        pre=Pre(
            (r"\p{N}{1,3}", rf"{CONTRACTIONS}|{WORD}|\p{{N}}+|{SIGNS}|{SPACES}"),
            ignores_merges=True,
        ),
    ),
    **_same("gpt-4o llama4 kanana2 talkie minimax-m2", GPT4O),
    **_same("tekken", pre=_TEKKEN),
    **_same("tiny_aya cohere2moe", r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O),
    **_same(
        "youtu",
        pre=Pre(
            (
                "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-\u303f︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
                cased(behind=f"{CONTRACTIONS}?", digits=r"\p{N}"),
            ),
            ignores_merges=True,
        ),
    ),
    **_same("kimi-k2", pre=Pre((rf"\p{{Han}}+|{KIMI}",), has_merges=False)),
    **_same("deepseek-v3 hunyuan-dense joyai-llm hy_v4", *DEEPSEEK3),
    **_same(
        "spark2_5",
        *DEEPSEEK3[:2],
        rf"{DEEPSEEK_WORDS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    ),
    **_same(
        "deepseek-llm",
        r"[\r\n]",
        rf"\s?[{BICAMERAL}]+",
        "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        r"\s+$",
        CJK,
        r"\p{N}+",
    ),
    **_same("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"),
    **_same("falcon", r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    **_same("bloom poro-chat gpt3-finnish", BLOOM),
    **_same("viking", BLOOM, r"\p{N}"),
    **_same("superbpe", r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    **_same(
        "afmoe",
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",  # threes from the right
        SOUTHEAST_ASIAN,
        DEEPSEEK3[2],
    ),
    **_same(
        "chameleon",
        pre=Pre(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ),
            adds_bos=True,
        ),
    ),
    **_same("gemma4", pre=replace(_RAW, adds_bos=True)),
    **_same("sarvam-moe", pre=_RAW),
}
