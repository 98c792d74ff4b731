"""`tunesmith doctor`: whether this machine has what a run needs."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.screen import emit, heading, say, say_table

if TYPE_CHECKING:
    from tunesmith.contracts import Foundation

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
EXTRAS = {
    "data": ("pyarrow", "datasets"),
    "serve": ("fastapi", "uvicorn"),
    "quantise": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""The modules that show whether an extra is installed."""


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model to look at: a hub id, a folder, or builtin:minilm.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: versions, processor, memory, extras, and whether a model can be used.

    Of a model that writes texts, or has a chat template, that template is tried out, too; an error ends with 2.

    \b
    tunesmith doctor
    tunesmith doctor builtin:minilm
    """
    from tunesmith.run import environment

    found: dict[str, Any] = {"environment": environment(), "extras": extras()}
    if model is not None:
        found |= _model(model)
    emit(found) if as_json else _say(found)
    broken = any(finding["level"] == "error" for finding in found.get("template", ()))
    if broken or "fault" in found.get("model", {}):
        raise typer.Exit(2)


def extras() -> dict[str, bool]:
    """Whether each extra is installed."""
    return {name: all(find_spec(module) is not None for module in modules) for name, modules in EXTRAS.items()}


def _model(name: str) -> dict[str, Any]:
    """What is known of a model before its weights are read, or why it cannot be used; and of its chat template."""
    from tunesmith.contracts import Family
    from tunesmith.errors import UserError
    from tunesmith.select.foundation import open_foundation
    from tunesmith.select.options import ModelOptions

    try:
        foundation = open_foundation(ModelOptions(name=name), Path())
    except UserError as error:
        return {"model": {"name": name, "fault": str(error)}}
    card, tokenizer = foundation.card, foundation.tokenizer
    facts = {
        "name": card.name,
        "family": str(card.family),
        "type": card.model_type,
        "parameters": card.parameters,
        "context_tokens": card.context_tokens,
        "vocabulary": card.vocabulary,
        "licence": card.licence,
        "languages": list(card.languages),
        "padding": tokenizer.pad_token,
        "padding_side": tokenizer.padding_side,
        "end": tokenizer.eos_token,
        "chat_template": tokenizer.chat_template is not None,
    }
    talks = card.family is not Family.ENCODER or tokenizer.chat_template is not None
    return {"model": facts, **({"template": _template(foundation)} if talks else {})}


def _template(foundation: "Foundation") -> list[dict[str, Any]]:
    """What was found of a model's chat template: name, level and message of each check."""
    from dataclasses import asdict

    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    from tunesmith.contracts import Family
    from tunesmith.tasks.template_doctor import diagnose

    settings = None
    if (foundation.folder / GENERATION_CONFIG_NAME).is_file():
        settings = GenerationConfig.from_pretrained(foundation.folder, local_files_only=True)
    found = diagnose(
        foundation.tokenizer,
        encoder_decoder=foundation.family is Family.ENCODER_DECODER,
        config=foundation.config,
        generation=settings,
    )
    return [asdict(one) for one in found]


def _say(found: dict[str, Any]) -> None:
    facts = dict(found["environment"])
    packages = facts.pop("packages")
    memory = facts.pop("memory_bytes")
    facts["memory"] = f"{memory / 2**30:.1f} GiB" if memory else None
    say_table(("machine", ""), facts.items())
    heading("packages")
    say_table(("package", "version"), packages.items())
    heading("extras")
    for name, there in found["extras"].items():
        say(f"{name}: installed" if there else f"{name}: not installed; pip install 'tunesmith[{name}]'")
    if "model" in found:
        heading("model")
        fault = found["model"].get("fault")
        if fault:
            say(f"cannot be used: {fault}", "red")
        else:
            rows = (
                (key, ", ".join(value) if isinstance(value, list) else value) for key, value in found["model"].items()
            )
            say_table(("fact", ""), rows)
    if "template" in found:
        heading("chat template")
        levels = [COLOURS[finding["level"]] for finding in found["template"]]
        checks = [(finding["level"], finding["name"], finding["message"]) for finding in found["template"]]
        say_table(("level", "check", "found"), checks, levels)
