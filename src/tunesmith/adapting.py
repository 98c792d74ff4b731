"""A foundation with the head, or the heads, that a task asks for, set to be tuned by a method."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from tunesmith.contracts import Adapted, Foundation, Method, Task, parts_of
from tunesmith.errors import UserError
from tunesmith.select.foundation import fit_tokenizer, supported
from tunesmith.select.load import load_model
from tunesmith.select.skeleton import skeleton
from tunesmith.several import Several


@dataclass(frozen=True)
class Setting:
    """What is set of a model besides its task and its method. dropout: None leaves the model's own."""

    seed: int
    dropout: float | None = None
    gradient_checkpointing: bool = False


def require_heads(foundation: Foundation, task: Task, method: Method) -> None:
    """Refuses a model without a head for the task, or for a part of it, and a method that suits none of these.

    The tokenizer then gives what all of them take.

    Raises UserError.
    """
    family, parts = foundation.family, parts_of(task)
    for name, part in parts.items():
        if family not in part.families:
            where = f"task.tasks.{name}" if name else "task"
            raise UserError(where, f"cannot use {family} models such as {foundation.card.name}", "choose another model")
        supported(foundation, part.auto_class(family))
        if foundation.quantise is not None and not method.quantises:
            found = "holds the base in few bits, which this method cannot use"
            raise UserError("model.quantise", found, "use method: lora, or leave the key out")
        method.check(skeleton(foundation.config, part.auto_class(family)), family, part.auto_class(family))
    for part in parts.values():
        fit_tokenizer(foundation, part.auto_class(family))


def require_new_tokens(foundation: Foundation, task: Task, method: Method) -> None:
    """Refuses new tokens that the method would leave as they begin, before weights are read. Raises UserError."""
    for part in parts_of(task).values():
        method.require_tokens(skeleton(foundation.config, part.auto_class(foundation.family)), foundation.family)


def adapted_model(foundation: Foundation, task: Task, method: Method, setting: Setting) -> Adapted:
    """The model ready to be tuned. Of a task with parts it is `Several` models that share what is pre-trained."""
    if not task.parts:
        return _one(foundation, task, method, setting)
    made = {name: _one(foundation, part, method, setting) for name, part in task.parts.items()}
    model = Several({name: one.model for name, one in made.items()}, {name: one.head for name, one in made.items()})
    trainable = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    head = tuple(dict.fromkeys(part for one in made.values() for part in one.head))
    notes = dict.fromkeys(note for one in made.values() for note in one.notes)
    rates = model.by_part({name: one.rates for name, one in made.items()})
    first = next(iter(made.values()))  # what the method does beside is done to what the parts share
    knows = all(one.knows for one in made.values())
    return Adapted(model, trainable, head, tuple(notes), rates, knows, first.penalties, first.tend)


def _one(foundation: Foundation, task: Task, method: Method, setting: Setting) -> Adapted:
    head = task.auto_class(foundation.family)
    loaded = load_model(foundation, head, task.head(), seed=setting.seed, dropout=setting.dropout)
    if setting.gradient_checkpointing:
        loaded.model.activation_checkpointing_enable()
        loaded.model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    adapted = method.adapt(loaded.model, foundation.codec, loaded.head, setting.seed, tuple(foundation.grown))
    return replace(adapted, notes=(*loaded.notes, *adapted.notes), knows=loaded.knows)


def alone(model: nn.Module) -> Mapping[str, nn.Module]:
    """The models by the name of their part; one that stands by itself has none."""
    return {name: model[name] for name in model.names} if isinstance(model, Several) else {"": model}
