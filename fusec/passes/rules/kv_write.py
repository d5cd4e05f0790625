"""Key and value of one layer are appended in one launch.

$k' = kv_append($k, %kr, %pos)
$v' = kv_append($v, %v, %pos)      =>     $k', $v' = fused kv_write($k, %kr, %pos, $v, %v)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "kv_append & kv_append => kv_write",
    pattern("k -> reader, v -> reader", context="reader", k="kv_append", v="kv_append"),
)
