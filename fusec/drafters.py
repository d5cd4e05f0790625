"""What `--draft` names: a drafter, with whatever it needs a model for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fusec.arguments import path, whole
from fusec.errors import FusecError
from fusec.ir.plan import HIDDEN
from fusec.models.model import Model
from fusec.models.nextn import has_nextn
from fusec.runtime.drafting import DRAFTERS, Drafter
from fusec.runtime.drafting.model import ModelDrafter, check_vocabularies
from fusec.runtime.drafting.mtp import AutoMtp, MtpDrafter
from fusec.runtime.token_engine import TokenEngine

MTP = "mtp"
Load = Callable[..., TokenEngine]
NAMES = f"{', '.join(DRAFTERS)}, {MTP} or a model"


def drafter_of(
    draft: str | os.PathLike[str] | Model, model: Model, load: Load, context: int, *, hidden: bool
) -> Drafter | None:
    """The drafter that is meant, for an engine of `model` with so many positions.

    `load` makes an engine of a model that guesses. `hidden`: whether the engine gives out what
    `draft_outputs` says; without it, `auto` makes do. Raises FusecError for a name that is none,
    for a model of another vocabulary, and for `mtp` where the file has no block that drafts.
    """
    if draft == MTP or (draft == "auto" and hidden and _drafts(model)):
        block = model.drafting()
        if not hidden:
            raise FusecError(
                "draft mtp: a compiled folder does not give out the hidden states that it reads: "
                "give the model file"
            )
        engine = load(block, context=context, outputs=(HIDDEN,))
        return MtpDrafter(engine) if draft == MTP else AutoMtp(engine)
    if isinstance(draft, str) and draft in ("off", *DRAFTERS):
        return None if draft == "off" else DRAFTERS[draft]()
    other = _draft_model(draft, model)
    return ModelDrafter(load(other, context=min(context, other.config.context)))


def draft_outputs(draft: str | os.PathLike[str] | Model, model: Model) -> tuple[str, ...]:
    """What an engine of `model` has to give out for a drafter: `outputs` of `load`."""
    reads = draft == MTP or (draft == "auto" and _drafts(model))
    return (HIDDEN,) if reads else ()


def _drafts(model: Model) -> bool:
    """Whether the file has a block that drafts."""
    return getattr(model.config, "skipped", 0) > 0 and has_nextn(model.file, model.config.layers)


def drafter_name(draft: str, model: Callable[[], Model]) -> str:
    """What a drafter is called where it is only shown: by its name, or its model's.

    `model`: opens the one that it guesses for. Raises FusecError for what is no drafter of it.
    """
    if draft == "off":
        raise FusecError(f"draft: expected {NAMES}, found off")
    if draft == MTP:
        model().drafting()
    if draft == "auto" and _drafts(model()):
        return f"auto with {MTP}"
    if draft in (MTP, *DRAFTERS):
        return draft
    return Path(_draft_model(draft, model()).file.path).stem


def _draft_model(draft: str | os.PathLike[str] | Model, model: Model) -> Model:
    wanted = f"off, {NAMES}"
    source = draft if isinstance(draft, Model) else path("draft", draft, wanted)
    try:
        other = source if isinstance(source, Model) else Model.open(source)
    except FusecError as error:
        raise FusecError(f"draft: expected {wanted}: {error}") from None
    check_vocabularies(model, other)
    return other


def check_draft_max(most: int) -> None:
    """Raise FusecError for a number of drafted tokens that no step has."""
    whole("draft_max", most, "a number of tokens from 1", 1)
