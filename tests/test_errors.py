"""A FusecError is one line that can be printed, whatever it quotes."""

import pickle

from fusec.errors import FusecError


def test_messages_are_one_printable_line() -> None:
    given = "m.gguf: 'gpt\x00\x1b[31m  2'\r\nis\u2028no\ud800 naïve 日本 kind"
    shown = "m.gguf: 'gpt\\x00\\x1b[31m  2' is no\\ud800 naïve 日本 kind"
    assert str(FusecError(given)) == shown
    assert str(FusecError(shown)) == shown
    assert str(pickle.loads(pickle.dumps(FusecError(given)))) == shown
