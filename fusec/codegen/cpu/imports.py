"""What emitted kernels call, by module. Emitting must not import Numba, so it is named here."""

from __future__ import annotations

import re
from collections.abc import Iterator

FUNCTIONS = {
    "experts": {"expert_vector", "expert_vector_sum", "route"},
    "lib": {
        "add_row", "argmax", "attention_f16", "attention_f32", "gelu", "layer_norm",
        "latent_attention_f16", "latent_attention_f32",
        "relu_squared", "rms_norm", "share", "sigmoid", "silu", "softcap", "swiglu_oai",
    },
    "scalars": {
        "abs_f32", "cos_f32", "div_f32", "exp_f32", "log_f32", "max_f32", "min_f32", "select_f32",
        "sin_f32", "softplus", "sqrt_f32", "tan_f32", "tanh_f32",
    },
    "vector": {"advance", "f32_to_f16_bits", "ptr_f32", "ptr_i32", "ptr_u16", "ptr_u8"},
}  # fmt: skip
PRODUCTS = {"dots": "lib", "expert_matvec": "experts", "expert_matvec_sum": "experts"}
"""What makes a product with one type of weights -> its module: `dots` makes `dots_q8_0`."""
_PRODUCT = re.compile(rf"({'|'.join(sorted(PRODUCTS, reverse=True))})_(\w+)")


def import_lines(source: str) -> Iterator[str]:
    """The import lines for the support functions that a kernel's source calls."""
    called = sorted(set(re.findall(r"\b([a-z]\w*)\(", source)))
    products = [match for name in called if (match := _PRODUCT.fullmatch(name))]
    for module, known in FUNCTIONS.items():
        names = {name for name in called if name in known}
        names |= {match[1] for match in products if PRODUCTS[match[1]] == module}
        if module == "vector":
            names |= {name for name in called if name.startswith("decode_row_")}
        if names:
            yield f"from fusec.codegen.cpu.{module} import {', '.join(sorted(names))}"
    if products:
        yield ""
    for match in products:
        yield f'{match[0]} = {match[1]}("{match[2]}")'
