"""What `fusec run` says of a generation: its text and ids as JSON, its speed in one line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusec.runtime.completion import Completion
from fusec.runtime.drafting.drafting import DraftStatistics
from fusec.runtime.sampling import Sampling
from fusec.writer import count


@dataclass(frozen=True)
class Answer:
    """A completion and its times.

    `first_s`: seconds until the first token, None where there is none; `seconds`: of all of it.
    `has_text`: whether the model has a tokenizer, without which there are ids alone. `drafts`: of a
    generation with a drafter.
    """

    completion: Completion
    first_s: float | None
    seconds: float
    has_text: bool
    drafts: DraftStatistics | None = None

    @property
    def decoded(self) -> int:
        """New tokens behind the first, which comes of the prompt's step."""
        return max(len(self.completion.ids) - 1, 0)

    @property
    def decode_s(self) -> float:
        """Seconds from the first new token to the end."""
        return 0.0 if self.first_s is None else self.seconds - self.first_s

    @property
    def tok_s(self) -> float:
        """New tokens a second behind the first; 0 where there are none."""
        return self.decoded / self.decode_s if self.decoded else 0.0

    def data(
        self, model: Path, sampling: Sampling, load_s: float, *, logprobs: bool
    ) -> dict[str, Any]:
        """What `--json` prints. `logprobs`: whether they were asked for, and are part of it."""
        found = self.completion
        drafts = asdict(self.drafts) if self.drafts else {}
        odds = {"logprobs": found.logprobs, "top": found.top} if logprobs else {}
        return {
            "model": str(model),
            "prompt_ids": found.prompt,
            "ids": found.ids,
            "text": found.text if self.has_text else None,
            "finish": found.finish,
            **odds,
            "sampling": asdict(sampling),
            "timings": {
                "load_s": load_s,
                "prompt_tokens": len(found.prompt),
                "first_token_s": self.first_s,
                "decode_tokens": self.decoded,
                "decode_s": self.decode_s,
                "tok_s": self.tok_s,
                **{f"draft_{name}": value for name, value in drafts.items()},
            },
        }

    def line(self) -> str:
        """The speed, or why there is no text."""
        found = self.completion
        prompt = f"prompt {count(len(found.prompt), 'token')}"
        if self.first_s is None and found.finish == "length":
            return f"{prompt}; nothing was generated, since no new tokens were asked for (-n 0)"
        if self.first_s is None:
            return (
                f"{prompt}, read in {1e3 * self.seconds:.0f} ms; the model ended its text at once, "
                f"with a stop token (--ignore-eos goes on behind it)"
            )
        first = f"{prompt}, first token after {1e3 * self.first_s:.0f} ms"
        rest = f"{count(self.decoded, 'token')} at {self.tok_s:.1f} tok/s"
        return f"{first}, {rest if self.decoded else 'and no other'}{self._drafted()}"

    def _drafted(self) -> str:
        if self.drafts is None:
            return ""
        guessed = f"{self.drafts.accepted} of {self.drafts.drafted} drafted tokens accepted"
        return f"; {guessed}, {self.drafts.steps} steps"
