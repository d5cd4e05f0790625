"""Which type each tensor gets in a named quantisation mix, by llama.cpp's rules.

The rules are those of `llama_tensor_get_type` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp for dense llama models quantised without an importance matrix:

- vectors (norms) stay F32;
- the output matrix, which is the embedding where they are tied, is Q6_K; it is Q8_0 where its rows
  are not whole blocks of the mix's type, and in Q8_0;
- IQ4 mixes raise `ffn_down` of the first eighth of the layers to Q5_K, and `attn_v` to Q5_K where
  four or more heads share it;
- a type whose 256-element blocks do not divide the rows gives way to one of 32-element blocks, and
  that to F16.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from fusec.errors import FusecError

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "IQ4_NL": LlamaFileType.MOSTLY_IQ4_NL,
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
}
FALLBACKS = {"iq4_xs": "iq4_nl", "q5_k": "q5_1", "q6_k": "q8_0"}
PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Mix:
    """A quantisation mix applied to a model of `layers` layers."""

    name: str
    layers: int
    heads_per_kv: int  # query heads that share a key/value head
    tied: bool  # the embedding is the output matrix too

    def __post_init__(self) -> None:
        if self.name not in FILE_TYPES:
            raise FusecError(f"unknown quantisation '{self.name}', known: {', '.join(FILE_TYPES)}")

    @property
    def file_type(self) -> int:
        """The value of `general.file_type`."""
        return int(FILE_TYPES[self.name])

    def dtype(self, tensor: str, shape: tuple[int, ...]) -> str:
        """The GGML type, in lower case, of the tensor of that name and NumPy shape."""
        if len(shape) < 2:
            return "f32"
        if self.name in PLAIN:
            return self.name.lower()
        return _fitting(self._wanted(tensor, shape[-1]), shape[-1])

    def _wanted(self, tensor: str, cols: int) -> str:
        default = self.name.lower()
        if tensor == ("token_embd.weight" if self.tied else "output.weight"):
            return "q8_0" if default == "q8_0" or cols % _block(default) else "q6_k"
        if default == "q8_0":
            return default
        early = self.layers // 8
        if tensor in {f"blk.{layer}.ffn_down.weight" for layer in range(early)}:
            return "q5_k"
        if tensor.endswith("attn_v.weight") and self.heads_per_kv >= 4:
            return "q5_k"
        return default


def _block(dtype: str) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]][0]


def _fitting(dtype: str, cols: int) -> str:
    """`dtype`, or what replaces it for rows that are not whole blocks of it."""
    if cols % _block(dtype):
        dtype = FALLBACKS.get(dtype, "f16")
    return dtype if cols % _block(dtype) == 0 else "f16"
