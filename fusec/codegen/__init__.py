"""Fused node in, kernel source and machine code out: formats, emitters, toolchains, the cache."""
