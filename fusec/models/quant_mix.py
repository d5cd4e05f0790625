"""Which type each tensor gets in a named quantisation mix, by llama.cpp's rules.

The rules are those of `llama_tensor_get_type_impl` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp for dense llama models quantised without an importance matrix:

- vectors (norms) and the routers of experts stay F32;
- the output matrix, which is the embedding where they are tied, gets six bits (five in mixes of two
  bits and less), eight where its rows are not whole blocks of the mix's type;
- mixes spend more bits on `attn_v`, `attn_output` and `ffn_down`, some only in some layers;
- a type whose blocks do not divide the rows gives way to one of 32-element blocks, and that to F16.

NVFP4 matrices have a factor beside them, so an embedding, which takes none, is Q8_0 in that mix.

llama.cpp writes MXFP4 for experts only (MXFP4_MOE); the mix MXFP4 here has it in every matrix. Its
rules for models of eight experts, which raise some matrices of attention, are not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from fusec.errors import FusecError
from fusec.models.encode_tables import NVFP4_MAX

# mix -> the type of most of its matrices, where that is not the mix's own name
DEFAULTS = {
    "Q2_K_S": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S",
    "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S", "MXFP4_MOE": "Q8_0",
}  # fmt: skip
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # as llama-quantize has them
PLAIN = ("F32", "F16", "BF16")
OWN = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
)  # fmt: skip
MIXES = (*PLAIN, *sorted([*OWN, *DEFAULTS]))

FALLBACKS = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), "iq4_nl"),
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    **{"iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"},
}
FEW_BITS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")


@dataclass(frozen=True)
class Mix:
    """A quantisation mix applied to a model of `layers` layers."""

    name: str  # as llama-quantize has it, in any case
    layers: int
    heads_per_kv: int  # query heads that share a key/value head
    tied: bool  # the embedding is the output matrix too

    def __post_init__(self) -> None:
        name = ALIASES.get(self.name.upper(), self.name.upper())
        if name not in MIXES:
            raise FusecError(f"unknown quantisation '{self.name}', known: {', '.join(MIXES)}")
        object.__setattr__(self, "name", name)

    @property
    def file_type(self) -> int:
        """The value of `general.file_type`."""
        if self.name == "F32":
            return int(LlamaFileType.ALL_F32)
        return int(LlamaFileType[f"MOSTLY_{'MXFP4_MOE' if self.name == 'MXFP4' else self.name}"])

    def dtype(self, tensor: str, shape: tuple[int, ...]) -> str:
        """The GGML type, in lower case, of the tensor of that name and NumPy shape."""
        if len(shape) < 2 or ".ffn_gate_inp" in tensor:  # routers stay as they are
            return "f32"
        if self.name in PLAIN:
            return self.name.lower()
        return _fitting(self._wanted(tensor, shape[-1]), shape[-1])

    @staticmethod
    def factor(dtype: str, largest: float) -> np.float32 | None:
        """The factor kept beside a matrix with that largest magnitude, if its type wants one.

        It puts the magnitude on the largest number that a block can hold.
        """
        if dtype != "nvfp4":
            return None
        return np.float32(largest / NVFP4_MAX) if largest else np.float32(1)

    def _wanted(self, tensor: str, cols: int) -> str:
        """The type before anything is said of the row's length."""
        default = DEFAULTS.get(self.name, self.name)
        chosen: str | None
        found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor)
        layer, kind = (int(found[1]), found[2]) if found else (0, tensor)
        stacked, kind = kind.endswith("_exps"), re.sub("_(sh)?exps?$", "", kind)
        if kind == "output.weight" or (kind == "token_embd.weight" and self.tied):
            chosen = self._output(default, cols)
        elif kind == "token_embd.weight":
            chosen = self._embedding()
        elif self.name == "MXFP4_MOE" and stacked:
            chosen = "MXFP4"
        elif self.name in FEW_BITS:
            chosen = self._few_bits(kind, layer)
        elif kind == "attn_v":
            chosen = self._attn_v(layer)
            if self.layers == 80 and (chosen or default) in ("Q3_K", "Q4_K"):
                chosen = "Q5_K"  # models of 70 billion weights
        elif kind == "ffn_down":
            chosen = self._ffn_down(layer)
        else:
            chosen = self._others(kind, layer)
        return (chosen or default).lower()

    def _output(self, default: str, cols: int) -> str:
        if self.name == "MXFP4" or default == "Q8_0" or cols % _block(default.lower()):
            return "Q8_0"
        return "Q5_K" if self.name in (*FEW_BITS, "IQ3_XXS") else "Q6_K"

    def _embedding(self) -> str | None:
        if self.name in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
            return "Q2_K"
        if self.name in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
            return "IQ3_S"
        if self.name == "NVFP4":
            return "Q8_0"
        return "Q4_K" if self.name in ("TQ1_0", "TQ2_0") else None

    def _few_bits(self, kind: str, layer: int) -> str | None:
        more = "IQ3_S" if self.name in ("IQ2_S", "IQ2_M") else "Q2_K"
        if kind == "attn_v":
            return "Q4_K" if self.heads_per_kv >= 4 else more
        if kind == "ffn_down":
            return more if layer < self.layers // 8 else None
        if kind == "attn_output":
            return {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}.get(
                self.name
            )
        return None

    def _attn_v(self, layer: int) -> str | None:
        shared, more = self.heads_per_kv >= 4, self._more_bits(layer)
        wanted = {
            "Q2_K": "Q4_K" if shared else "Q3_K",
            "IQ3_XXS": "Q4_K" if shared else "IQ3_S",
            "IQ3_M": "Q4_K",
            "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K",
            "Q3_K_L": "Q5_K",
            **dict.fromkeys(("Q2_K_S", "IQ3_XS", "IQ3_S"), "Q4_K" if shared else None),
            **dict.fromkeys(("IQ4_NL", "IQ4_XS"), "Q5_K" if shared else None),
            **dict.fromkeys(("Q4_K_M", "Q5_K_M"), "Q6_K" if more else None),
            "Q4_K_S": "Q5_K" if layer < 4 else None,
        }
        return wanted.get(self.name)

    def _ffn_down(self, layer: int) -> str | None:
        early, more = layer < self.layers // 8, self._more_bits(layer)
        wanted = {
            "Q2_K": "Q3_K",
            "IQ3_XXS": "Q4_K" if early else "Q3_K",
            "Q3_K_M": "Q5_K" if layer < self.layers // 16 else "Q4_K",
            "Q3_K_L": "Q5_K",
            **dict.fromkeys(("Q2_K_S", "IQ3_M"), "Q4_K" if early else None),
            **dict.fromkeys(("Q4_K_M", "Q5_K_M"), "Q6_K" if more else None),
            **dict.fromkeys(("IQ4_NL", "IQ4_XS", "Q4_K_S"), "Q5_K" if early else None),
        }
        return wanted.get(self.name)

    def _others(self, kind: str, layer: int) -> str | None:
        """`attn_q`, `attn_k`, `attn_output`, `ffn_gate` and `ffn_up`."""
        if kind == "attn_output":
            wanted = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
            return (wanted | {"IQ3_M": "Q4_K"}).get(self.name)
        if kind in ("attn_q", "attn_k"):
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self.name)
        inside = self.layers // 8 <= layer < 7 * self.layers // 8
        return "IQ3_XXS" if self.name == "IQ3_XS" and inside else None

    def _more_bits(self, layer: int) -> bool:
        """The first and last eighth of the layers, and every third between them."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


def factor_name(matrix: str) -> str:
    """The tensor that keeps the factor of a matrix: M.scale beside M.weight."""
    return f"{matrix.removesuffix('.weight')}.scale"


def factors_of(shape: tuple[int, ...]) -> int:
    """How many of them there are: one, or one for each matrix of a stack."""
    return shape[0] if len(shape) == 3 else 1


def _block(dtype: str) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]][0]


def _fitting(dtype: str, cols: int) -> str:
    """`dtype`, or what replaces it for rows that are not whole blocks of it."""
    if cols % _block(dtype):
        dtype = FALLBACKS.get(dtype, "f16")
    return dtype if cols % _block(dtype) == 0 else "f16"
