"""What a generation gives: pieces of text as they come, and all of them as a completion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fusec.errors import FusecError
from fusec.models.tokenizer import StreamDecoder, Tokenizer
from fusec.runtime.job import Array, Chosen
from fusec.runtime.sampling import likeliest, log_probabilities
from fusec.writer import brief, count


@dataclass(frozen=True)
class Piece:
    """One token, and the text that became complete with it.

    The text is empty inside a character that several tokens make, and while it may be the beginning
    of a stop string. `token` is None of text that was held back until the end. `logprob` is the
    natural logarithm of the token's probability by the model's logits, before temperature, filters,
    penalties and a logits processor; `top` has the likeliest tokens with theirs, the best first.
    Both are empty unless asked for.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()

    def __repr__(self) -> str:
        odds = "" if self.logprob is None else f", logprob {self.logprob:.3f}"
        return brief(self, f"{self.text!r}, token {self.token}{odds}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Completion:
    """A whole generation. `str` of it is its text, and iterating gives its token ids.

    `prompt`: the ids that it follows. `finish`: why it ended, "stop" (a stop token, which is not
    among `ids`, or a stop string, which is not in `text`, though its tokens are among `ids`) or
    "length". `logprobs` and `top` have an entry for each id, if they were asked for: see `Piece`.
    """

    text: str
    ids: tuple[int, ...]
    prompt: tuple[int, ...]
    finish: str
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()

    def __repr__(self) -> str:
        tokens = f"{count(len(self.prompt), 'token')} + {len(self.ids):,}"
        return brief(self, f"{tokens}, ended by {self.finish}: {self.text!r}")

    def __str__(self) -> str:
        return self.text

    @property
    def logprob(self) -> float:
        """The natural logarithm of the whole completion's probability, if `logprobs` were asked
        for; of two completions the larger one is the likelier.
        """
        if len(self.logprobs) != len(self.ids):
            raise FusecError("the completion has no log probabilities: ask for logprobs=0 or more")
        return sum(self.logprobs)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class Stream:
    """An iterator of the pieces of one generation. `completion` is what has come of it so far."""

    def __init__(
        self,
        chosen: Iterator[Chosen | int],
        prompt: Sequence[int],
        most: int,
        tokenizer: Tokenizer | None,
        stop: Sequence[str],
        logprobs: int | None,
    ) -> None:
        self._most, self._prompt = most, tuple(prompt)
        self._pieces: list[Piece] = []
        self._stopped = False
        self._ended = False
        self._decoder = StreamDecoder(tokenizer, prompt) if tokenizer else None
        self._until = Until(stop)
        self._logprobs = logprobs
        self._iterator = self._run(chosen)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        piece = next(self._iterator)
        self._pieces.append(piece)
        return piece

    @property
    def completion(self) -> Completion:
        """All pieces so far as one. Before the end, `finish` is "length"."""
        tokens = [piece for piece in self._pieces if piece.token is not None]
        asked = self._logprobs is not None
        return Completion(
            "".join(piece.text for piece in self._pieces),
            tuple(piece.token for piece in tokens if piece.token is not None),
            self._prompt,
            "stop" if self._stopped else "length",
            tuple(piece.logprob for piece in tokens if piece.logprob is not None),
            tuple(piece.top for piece in tokens) if asked else (),
        )

    def _run(self, chosen: Iterator[Chosen | int]) -> Iterator[Piece]:
        made = 0
        for one in chosen:
            made += 1
            token = one if isinstance(one, int) else one.token
            text = self._until.push(self._decoder.push(token) if self._decoder else "")
            logits = None if isinstance(one, int) or self._logprobs is None else one.logits
            yield self._piece(text, token, logits)
            if self._until.hit:
                self._stopped = True
                return
        self._stopped = made < self._most
        if rest := self._until.finish(self._decoder.finish() if self._decoder else ""):
            yield Piece(rest)
        self._stopped |= self._until.hit

    def _piece(self, text: str, token: int, logits: Array | None) -> Piece:
        if logits is None:
            return Piece(text, token)
        scores = log_probabilities(logits)
        best = likeliest(scores, self._logprobs or 0).tolist()
        top = tuple((other, float(scores[other])) for other in best)
        return Piece(text, token, float(scores[token]), top)


def stop_strings(given: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings, of which one may stand alone. Raises FusecError for what are none."""
    found = (given,) if isinstance(given, str | bytes) or not isinstance(given, Iterable) else given
    if not all(isinstance(text, str) and text for text in found):
        raise FusecError(f"stop: expected strings that are not empty, found {given!r}")
    return tuple(found)


class Until:
    """Text up to the first of some stop strings, handed on as soon as it can be none of them."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop, self._held, self.hit = tuple(stop), "", False

    def push(self, text: str) -> str:
        """What may be shown now that this text has come too."""
        held = self._held + text
        if found := [place for stop in self._stop if (place := held.find(stop)) >= 0]:
            self.hit, self._held = True, ""
            return held[: min(found)]
        keep = max((_beginning(held, stop) for stop in self._stop), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self, text: str) -> str:
        """What is left, this text being the last."""
        shown = self.push(text)
        return shown if self.hit else shown + self._held


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
