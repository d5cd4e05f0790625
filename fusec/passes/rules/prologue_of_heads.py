"""What attention needs of one head is made by the thread blocks that attend with that head.

%q', $k' = fused head_norm_rope_kv(%q, %k, %pos, $k, ...)
%a = attention(%q', $k', $v, %pos) =>     %a = fused head_norm_rope_kv_attention(%q, %k, %pos, ...)

Every block norms and rotates its head's query, and the key and value that this step appends. One
block of each head of the caches writes these there.
"""

from fusec.passes.rule import Rule, pattern


def prologue_of_heads(name: str, made: str) -> Rule:
    """One of the roles `made` -> heads."""
    return Rule(
        f"{made.replace(' ', ' | ')} -> heads => heads",
        pattern("made -> attention", made=made, attention="heads"),
        named=name,
        about=__doc__,
    )
