"""The commands by name, each in a module that is imported when somebody calls it.

Typer makes a command of a function's signature, and the modules that have these functions import
a good deal. So `fusec --help` shows stand-ins, which know their one line of help, and only the
command that is called is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "run": "Generate text: from a model, or from a folder that fusec compile wrote.",
    "compile": "Compile a model: print what each pass merged, and the plan; build every kernel.",
    "info": "Show what is in a model file, what fusec makes of it, and the memory it takes.",
    "inspect": "Look at the graph at a stage, or at the plan, without compiling kernels.",
    "diff": "Compare two plans: their sizes, and which dispatches became which.",
    "verify": "Check logits: against the float64 reference; levels and chunks, byte for byte.",
    "perplexity": "Measure how well a model predicts a text: llama.cpp's perplexity, lower is "
    "better.",
    "bench": "Measure prompts and new tokens: tokens a second, dispatches, bandwidth; at every "
    "level.",
    "ablate": "What each rule and pass is worth: dispatches, time and logits of a model without "
    "it.",
    "profile": "Where a token's time goes: between tokens, launches, memory, compute; launch by "
    "launch.",
    "roofline": "What GPUs could make of a model: floors, predicted tokens a second, and what "
    "binds.",
    "calibrate": "Measure this machine's GPU: bandwidths, kernel boundaries, barriers, exchanges.",
    "tune": "Choose the shapes of a GPU's kernels by measuring: every later --target native uses "
    "them.",
    "synth": "Write a model of a real shape with random weights, for tests and measurements.",
    "quantize": "Write a copy of a model with its matrices quantised, by llama.cpp's rules for "
    "the mix.",
    "pull": "Fetch a model by its name, unless it is here already, and print its path.",
    "list": "List models, rules, passes, ops, GPUs, presets or formats; a sentence about each.",
}
"""Name -> the first line of its help, in the order of `fusec --help`.

The command `run` is the function `run` of `fusec.cli.run`; one whose name Python has a use for is
`compile_command`.
"""

SETTINGS: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "rich_markup_mode": None,  # help as plain text: rich takes as long to import as all the rest
    "pretty_exceptions_enable": False,
}
"""What the group and its commands are made with."""


class Commands(TyperGroup):
    """The group of all commands: stand-ins until one is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, short_help=line) for name, line in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with, its name, and the other arguments."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, stand_in and command(stand_in.name or ""), rest


def function_of(name: str) -> Any:
    """The function that is a command, its module imported."""
    module = import_module(f"fusec.cli.{name}")
    return getattr(module, f"{name}_command", None) or getattr(module, name)


def command(name: str) -> Any:
    """A command as typer makes it of its function."""
    app = typer.Typer(add_completion=False, **SETTINGS)
    app.command(name)(function_of(name))
    return typer.main.get_command(app)
