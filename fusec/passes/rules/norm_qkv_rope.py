"""Query and key are rotated, key and value appended, where the rows of their projections end.

    %q, %k, %v = fused norm_matvec(%x, ...)
    %qr, $k', $v' = fused rope_kv_write(%q, %pos, %k, $k, $v, %v)
                                   =>     %qr, $k', $v' = fused norm_qkv_rope(...)

A rotation turns pairs of elements, so a warp makes both rows of a pair.
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "norm_matvec -> rope_kv_write => norm_qkv_rope",
    pattern("products -> rotate", products="norm_matvec", rotate="rope_kv_write"),
)
