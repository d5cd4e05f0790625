"""The CPU target: Numba functions whose inner loops are LLVM IR."""
