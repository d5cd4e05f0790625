"""Query and key of one layer are rotated by the same angles in one launch.

    %qr = rope(%q, %pos)
    %kr = rope(%k, %pos)               =>     %qr, %kr = fused ropes(%q, %pos, %k)

The pattern asks that both come from one node: all layers share %pos, only a layer shares a QKV.
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "rope & rope => ropes", pattern("qkv -> a, qkv -> b", context="qkv", a="rope", b="rope")
)
