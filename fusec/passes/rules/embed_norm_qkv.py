"""The token's row of the embedding is read by every block of its first reader.

    %x = embed(%token, @table)
    %qr, $k', $v' = fused norm_qkv_rope(%x, ...)
                                   =>     %x, %qr, $k', $v' = fused embed_norm_qkv(%token, ...)

The residual reads %x as well, so it is still written, its elements spread over the blocks.
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "embed -> norm_qkv_rope => embed_norm_qkv",
    pattern("row -> first", kept="row", row="embed", first="norm_qkv_rope"),
)
