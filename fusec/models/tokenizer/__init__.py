"""Text to token ids and back, from the vocabulary inside a GGUF file.

- `vocabulary`: what the tokens mean; needs no tokenizer.
- `partition`: tokens written out in a text, found first.
- `sentencepiece`, `byte_level`: the text between them into ids, by the kind of vocabulary.
- `pre`: how byte-level BPE cuts text into words, by `tokenizer.ggml.pre`.
- `tokenizer`: puts these together; `stream`: decodes as tokens come.
"""

from fusec.models.tokenizer.byte_level import byte_alphabet
from fusec.models.tokenizer.sentencepiece import SPACE
from fusec.models.tokenizer.stream import StreamDecoder
from fusec.models.tokenizer.tokenizer import Tokenizer, check_kind
from fusec.models.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = [
    "SPACE",
    "StreamDecoder",
    "TokenType",
    "Tokenizer",
    "Vocabulary",
    "byte_alphabet",
    "check_kind",
]
