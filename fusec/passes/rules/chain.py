"""A chain of element-wise work never leaves the registers.

%s = silu(%gate)
%h = mul(%s, %up)                  =>     %h = fused silu_mul(%gate, %up)

So with a rotation in front of the cache that it is written to, or a norm in front of both.
"""

from fusec.passes.rule import Rule, pattern


def chain(name: str, first: str, then: str) -> Rule:
    """One of the roles `first` -> one of the roles `then`."""
    return Rule(
        f"{first.replace(' ', ' | ')} -> {then.replace(' ', ' | ')} => the latter",
        pattern("a -> b", a=first, b=then),
        named=name,
    )
