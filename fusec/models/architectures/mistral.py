"""`mistral3`: Ministral 3 and newer Mistrals. Mistral 7B and Mixtral are `llama`."""

from __future__ import annotations

from fusec.errors import FusecError
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import ORIGINAL, YARN_KEYS, read
from fusec.models.hyperparameters import Hyperparameters
from fusec.models.positions import Temperature


def mistral3(keys: Hyperparameters) -> DecoderConfig:
    """A llama with all of YaRN's keys, and queries that grow behind the original context."""
    return read(keys, reads=tuple(YARN_KEYS.values()), temperature=temperature(keys))


def temperature(keys: Hyperparameters) -> Temperature | None:
    """As the keys have it. Raises FusecError where the context that it counts in is missing."""
    slope = keys.real("attention.temperature_scale", 0.0)
    if not slope:
        return None
    if not keys.has(ORIGINAL):
        raise FusecError(
            f"{keys.file.path}: {keys.key('attention.temperature_scale')} is {slope}, expected "
            f"{keys.key(ORIGINAL)} beside it"
        )
    return Temperature(slope, keys.count(ORIGINAL))
