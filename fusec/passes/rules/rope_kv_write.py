"""The rotated key goes straight to the cache.

%qr, %kr = fused ropes(%q, %pos, %k)
$k', $v' = fused kv_write($k, %kr, %pos, $v, %v)
                                   =>     %qr, $k', $v' = fused rope_kv_write(...)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "ropes -> kv_write => rope_kv_write",
    pattern("rotate -> write", rotate="ropes rope", write="kv_write kv_append"),
)
