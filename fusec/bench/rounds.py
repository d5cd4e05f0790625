"""`fusec profile --draft`: the parts of a round of the token loop, and how texts are drafted.

    draft     tokens are guessed
    check     the step that reads the last token and the guesses
    choice    a token for each row of it
    accept    which of the guesses were right, and what is learnt from that

A round of one row has no guesses. The texts are those of `fusec bench --draft`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fusec import drafters, driver
from fusec.bench.drafted_texts import Texts
from fusec.bench.drafts import texts_of
from fusec.bench.experiment import Note
from fusec.bench.facts import facts_of
from fusec.bench.instruments import instruments_of
from fusec.compiled import Compilation
from fusec.errors import FusecError
from fusec.runtime.drafting import renewed


def run(
    compiled: Compilation,
    draft: str,
    most: int,
    tokens: int,
    threads: int = 0,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Profile the loop with a drafter, `tokens` new ones a text. Returns what JSON holds.

    `compiled` has what `drafters.draft_outputs` says among its outputs.

    Raises FusecError where no prompt fits the context, and for what is no drafter.
    """
    if tokens < 2:
        raise FusecError(f"-n: expected at least 2 tokens, found {tokens}")
    drafters.check_draft_max(most)
    model = compiled.model
    assert model is not None
    texts, left_out = texts_of(model, compiled.context, tokens)
    how: dict[str, Any] = {"target": compiled.options.target, "threads": threads}
    name = drafters.drafter_name(draft, lambda: model)
    drafter = driver.drafter_of(draft, model, compiled.context, **how)
    assert drafter is not None
    engine = compiled.engine(threads=threads)
    try:
        engine.stop, engine.drafter, engine.draft_max = frozenset(), drafter, most
        every = Texts(engine, texts, tokens, note)
        every.run()  # graphs are made, and it is measured what they cost
        engine.drafter = renewed(drafter)
        rounds, generations = instruments_of(compiled.backend).rounds(engine, every)
    finally:
        engine.close()
    found = {
        "drafter": name,
        "most": most,
        "left_out": left_out,
        "rounds": [asdict(each) for each in rounds],
        "texts": [asdict(each) for each in generations],
    }
    return {**facts_of(compiled, threads), "draft": found}
