"""Element-wise ops in a row become one kernel, whose intermediate values stay in registers.

%s = silu(%gate)
%h = mul(%s, %up)                  =>     %h = fused silu_mul(%gate, %up)

The same holds for a rotation in front of the cache it is written to, and a norm in front of both.
"""

from fusec.passes.rule import Rule, pattern


def chain(name: str, first: str, then: str, kept: bool = False) -> Rule:
    """One of the roles `first` -> one of the roles `then`. `kept`: the first may have others."""
    return Rule(
        f"{first.replace(' ', ' | ')} -> {then.replace(' ', ' | ')} => the latter",
        pattern("a -> b", kept="a" if kept else "", a=first, b=then),
        named=name,
    )
