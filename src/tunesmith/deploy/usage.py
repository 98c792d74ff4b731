"""How an artefact is loaded and used with nothing of tunesmith: the code on its model card, for each kind of model."""

import re
from collections.abc import Callable
from typing import Any

from tunesmith.contracts import Family
from tunesmith.deploy.parcel import Parcel
from tunesmith.given import Decoding

FOLDER = "path/to/this/folder"
"""What stands in the code for where the artefact lies."""
SLOT = re.compile(r"\{[^{}]+\}")
NEW_TOKENS = 50
"""How much is written where the task does not say."""
NEVER = 1e6
"""A threshold above this is that of a model which always answers."""
CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
TEXT = "some text"


def usage(kind: str, parcel: Parcel) -> str:
    """The code as markdown, and what its output means; it runs as it stands, but for paths. kind: the artefact's."""
    imports, code, said = _use(parcel)
    names = ", ".join(sorted({parcel.auto_class, "AutoTokenizer", *imports, *_configs(kind, parcel)}))
    module, _, name = parcel.loader.partition(":")
    lines = [
        *(["import torch"] if "torch." in code else []),
        *(["from peft import PeftModel"] if kind == "adapter" and not parcel.loader else []),
        f"from transformers import {names}",
        *([f"from {module} import {name}"] if kind == "adapter" and parcel.loader else []),
        "",
        *_loading(kind, parcel),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        code,
    ]
    return "```python\n" + "\n".join(lines) + f"\n```\n\n{said}\n"


def _configs(kind: str, parcel: Parcel) -> list[str]:
    """The configurations that an adapter brings for its base."""
    if kind != "adapter":
        return []
    few = ["BitsAndBytesConfig"] if parcel.quantised else []
    return ["AutoConfig", *few, *(["GenerationConfig"] if _writes(parcel) else [])]


def _loading(kind: str, parcel: Parcel) -> list[str]:
    auto = parcel.auto_class
    if kind != "adapter":
        return [f'folder = "{FOLDER}"', f"model = {auto}.from_pretrained(folder).eval()"]
    load = parcel.loader.partition(":")[2] or "PeftModel.from_pretrained"
    ends = ["model.generation_config = GenerationConfig.from_pretrained(folder)"] if _writes(parcel) else []
    return [
        f'folder = "{FOLDER}"',
        f"base = {parcel.foundation.portable_name!r}",
        *([f"few = BitsAndBytesConfig(**{parcel.quantised})"] if parcel.quantised else []),
        f"model = {auto}.from_pretrained(base, config=AutoConfig.from_pretrained(folder)"
        f"{', quantization_config=few' if parcel.quantised else ''}"
        f"{', ignore_mismatched_sizes=True' if parcel.other_head else ''})",
        *(
            [f"model.resize_token_embeddings({parcel.foundation.embedded}, mean_resizing=False)"]
            if parcel.foundation.grown
            else []
        ),
        *ends,
        f"model = {load}(model, folder).eval()",
    ]


def _writes(parcel: Parcel) -> bool:
    """Whether the model is there to write texts."""
    return parcel.auto_class in (CAUSAL, SEQ2SEQ) and parcel.task_spec["kind"] != "multiple_choice"


def _use(parcel: Parcel) -> tuple[list[str], str, str]:
    """What else is imported from transformers, the code that uses the model, and what its output means."""
    if parcel.task_spec["kind"] == "prompted":
        return [], _worded(parcel), "Printed is the probability of each label."
    if _writes(parcel):
        return [], _written(parcel), _said_of_texts(parcel)
    if parcel.task_spec["kind"] == "multiple_choice":
        return [], _choice(parcel), "The answer with the highest share is the model's."
    uses: dict[str, Callable[[Parcel], tuple[list[str], str, str]]] = {
        "AutoModelForTokenClassification": _tagged,
        "AutoModelForQuestionAnswering": _placed,
        "AutoModelForMaskedLM": _filled,
    }
    return uses.get(parcel.auto_class, _scored)(parcel)


def _worded(parcel: Parcel) -> str:
    """The words of all labels scored in the template, each by the mean over its tokens or their sum."""
    spec = parcel.task_spec
    told, template = parcel.task.told(), spec["template"]  # type: ignore[attr-defined]  # a task of prompts has it
    before, after = (SLOT.sub(TEXT, part) for part in template.split("{label}"))
    before = told + before
    words = {name: [one] if isinstance(one, str) else list(one) for name, one in spec["words"].items()}
    total = "sum" if spec["normalise"] == "none" else "mean"
    lines = {
        "AutoModelForMaskedLM": (
            "    hidden = [tokenizer.mask_token_id if n in place else token for n, token in enumerate(ids)]\n"
            "    logits = model(torch.tensor([hidden])).logits[0]\n"
            "    found = logits.log_softmax(dim=-1)[place, [ids[n] for n in place]]\n"
        ),
        CAUSAL: (
            "    logits = model(torch.tensor([ids[: place[-1] + 1]])).logits[0]\n"
            "    found = logits.log_softmax(dim=-1)[[n - 1 for n in place], [ids[n] for n in place]]\n"
        ),
        "AutoModelForSeq2SeqLM": _worded_behind(parcel),
    }
    return (
        f"before, after, words = {before!r}, {after!r}, {words!r}\n"
        "def score(word):\n"
        "    read = tokenizer(before + word + after, return_offsets_mapping=True)\n"
        '    ids, start, end = read["input_ids"], len(before), len(before + word)\n'
        '    place = [n for n, (a, b) in enumerate(read["offset_mapping"]) if max(a, start) < min(b, end)]\n'
        f"{lines[parcel.auto_class]}"
        f"    return found.{total}()\n"
        "scores = torch.stack([torch.stack([score(word) for word in some]).mean() for some in words.values()])\n"
        "print(dict(zip(words, scores.softmax(dim=0).tolist())))"
    )


def _worded_behind(parcel: Parcel) -> str:
    """The score of a word that a decoder behind an encoder writes."""
    vocabulary = parcel.foundation.tokenizer.get_vocab()
    start = "ids[-1]" if parcel.foundation.card.model_type == "mbart" else "model.config.decoder_start_token_id"
    if "<extra_id_0>" in vocabulary:
        gap, said, first = f"[{vocabulary['<extra_id_0>']}]", f"[{vocabulary['<extra_id_0>']}, *word]", "1"
    elif parcel.foundation.tokenizer.mask_token_id is not None:
        gap, said, first = "[tokenizer.mask_token_id]", "ids[: place[-1] + 1]", "place[0]"
    else:
        gap, said, first = "[]", "word", "0"
    return (
        "    word = [ids[n] for n in place]\n"
        f"    said = {said}\n"
        f"    read = torch.tensor([[*ids[: place[0]], *{gap}, *ids[place[-1] + 1 :]]])\n"
        f"    logits = model(read, decoder_input_ids=torch.tensor([[{start}, *said[:-1]]])).logits[0]\n"
        f"    found = logits.log_softmax(dim=-1)[range({first}, len(said)), said[{first} :]]\n"
    )


def _scored(parcel: Parcel) -> tuple[list[str], str, str]:
    named = ", model.config.id2label" if parcel.task.head().get("id2label") else ""
    code = (
        f'inputs = tokenizer("{TEXT}", truncation=True, max_length={parcel.max_tokens}, return_tensors="pt")\n'
        f"print(model(**inputs).logits{named})"
    )
    regression = parcel.task.head().get("problem_type") == "regression"
    return (
        [],
        code,
        f"Outputs are {'numbers in the units of the data' if regression else 'scores before softmax or sigmoid'}.",
    )


def _tagged(parcel: Parcel) -> tuple[list[str], str, str]:
    code = (
        'find = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")\n'
        f'print(find("{TEXT}"))'
    )
    return ["pipeline"], code, "Each entity has its label and its characters in the text."


def _placed(parcel: Parcel) -> tuple[list[str], str, str]:
    asked = "a question\\n" if parcel.foundation.family is Family.DECODER else "a question"
    code = (
        f'context = "{TEXT}"\n'
        f'inputs = tokenizer("{asked}", context, truncation="only_second", max_length={parcel.max_tokens},\n'
        '                   return_offsets_mapping=True, return_tensors="pt")\n'
        'offsets = inputs.pop("offset_mapping")[0].tolist()\n'
        "inside = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])\n"
        "found = model(**inputs)\n"
        "scores = found.start_logits[0][:, None] + found.end_logits[0][None, :]\n"
        "allowed = (inside[:, None] & inside[None, :]).triu()\n"
        "first, last = divmod(scores.masked_fill(~allowed, -torch.inf).argmax().item(), len(inside))\n"
        "print(context[offsets[first][0]:offsets[last][1]], scores[first, last].item(), scores[0, 0].item())"
    )
    said = "Printed are the best stretch of the text, its score, and the score of no answer"
    limit = parcel.task_spec.get("threshold")
    if limit is not None and abs(limit) < NEVER:
        said += f", which is the answer where it is more than {limit:.4g} above the other"
    return [], code, f"{said}."


def _filled(parcel: Parcel) -> tuple[list[str], str, str]:
    code = (
        'inputs = tokenizer(f"some {tokenizer.mask_token} text", return_tensors="pt")\n'
        'place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)\n'
        "best = model(**inputs).logits[0, place].topk(5).indices.tolist()\n"
        "print(tokenizer.convert_ids_to_tokens(best))"
    )
    return [], code, "Printed are the five likeliest tokens in the place of the mask."


def _choice(parcel: Parcel) -> str:
    if parcel.auto_class != CAUSAL:
        return (
            'choices = ["one answer", "another answer"]\n'
            'inputs = tokenizer(["some question"] * len(choices), choices, padding=True, return_tensors="pt")\n'
            "scores = model(**{name: values[None] for name, values in inputs.items()}).logits[0]\n"
            "print(dict(zip(choices, scores.softmax(dim=0).tolist())))"
        )
    frame = str(parcel.task_spec.get("frame", "{question}\nAnswer:")).replace("{question}", "some question")
    whole = " * answer.shape[1]" if parcel.task_spec.get("normalise") == "none" else ""
    return (
        'choices = ["one answer", "another answer"]\n'
        f'asked = tokenizer({frame!r}, return_tensors="pt")["input_ids"]{_endless(parcel)}\n'
        "scores = []\n"
        "for choice in choices:\n"
        '    answer = tokenizer(f" {choice}", add_special_tokens=False, return_tensors="pt")["input_ids"]\n'
        "    labels = torch.cat([torch.full_like(asked, -100), answer], dim=1)\n"
        f"    scores.append(-model(torch.cat([asked, answer], dim=1), labels=labels).loss{whole})\n"
        "print(dict(zip(choices, torch.stack(scores).softmax(dim=0).tolist())))"
    )


def _endless(parcel: Parcel) -> str:
    """What takes off the end of sequence that this tokenizer puts behind a text."""
    tokenizer = parcel.foundation.tokenizer
    ids = tokenizer("a")["input_ids"]
    return "[:, :-1]" if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ""


def _written(parcel: Parcel) -> str:
    causal, kind = parcel.auto_class == CAUSAL, parcel.task_spec["kind"]
    kind = "chat" if kind == "preference" and parcel.task_spec.get("conversations") else kind
    if kind == "chat":
        asked = _chatted(parcel)
    elif kind == "language" and not causal:
        asked = _gapped(parcel)
    else:
        asked = f"prompt = {_prompt(parcel)!r}"
    whole = kind == "chat" and causal  # such a prompt has its control tokens from the template
    given = ", add_special_tokens=False" if whole else ""
    end = _endless(parcel) if causal and not whole else ""
    return (
        f"{asked}\n"
        f'ids = tokenizer(prompt{given}, return_tensors="pt")["input_ids"]{end}\n'
        f"made = model.generate(ids, attention_mask=torch.ones_like(ids), {_decoding(parcel)})\n"
        f"print(tokenizer.decode(made[0{', ids.shape[1]:' if causal else ''}], skip_special_tokens=True))"
    )


def _gapped(parcel: Parcel) -> str:
    """A text with a gap, as this tokenizer marks one."""
    if "<extra_id_0>" in parcel.foundation.tokenizer.get_vocab():
        return 'prompt = "some <extra_id_0> text"'
    return 'prompt = f"some {tokenizer.mask_token} text"'


def _prompt(parcel: Parcel) -> str:
    """What the model is given for a text, with the words of a template around it."""
    template = parcel.task_spec.get("template")
    if template is not None:
        return SLOT.sub(TEXT, str(template))
    return TEXT + ("\n" if parcel.task_spec["kind"] == "generation" and parcel.auto_class == CAUSAL else "")


def _chatted(parcel: Parcel) -> str:
    """A conversation, and the prompt that its template makes of it."""
    spec = parcel.task_spec
    messages = [{"role": "user", "content": TEXT}]
    if spec.get("system") and not spec.get("fold_system"):
        messages.insert(0, {"role": "system", "content": str(spec["system"])})
    elif spec.get("system"):
        messages[0]["content"] = f"{spec['system']}\n\n{TEXT}"
    values = f", **{dict(spec['template_values'])!r}" if spec.get("template_values") else ""
    return (
        f"messages = {messages!r}\n"
        f"prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True{values})"
    )


def _decoding(parcel: Parcel) -> str:
    """The arguments of `generate` that the task was judged with."""
    found: Decoding | None = parcel.task.decoding_for(parcel.foundation.codec)
    if found is None:
        return f"max_new_tokens={NEW_TOKENS}"
    drawn = found.temperature > 0
    given: dict[str, Any] = {"max_new_tokens": found.max_new_tokens, "do_sample": drawn}
    more = {
        "min_new_tokens": (found.min_new_tokens, 0),
        "num_beams": (found.beams, 1),
        "length_penalty": (found.length_penalty, 1.0),
        "no_repeat_ngram_size": (found.no_repeat_ngram, 0),
        "repetition_penalty": (found.repetition_penalty, 1.0),
        "temperature": (found.temperature, 0.0),
        "top_p": (found.top_p if drawn else 1.0, 1.0),
        "top_k": (found.top_k if drawn else 0, 0),
    }
    given |= {name: value for name, (value, usual) in more.items() if value != usual}
    if found.stop_texts:
        given["stop_strings"] = list(found.stop_texts)
    tokenizer = ", tokenizer=tokenizer" if found.stop_texts else ""
    return ", ".join(f"{name}={value!r}" for name, value in given.items()) + tokenizer


def _said_of_texts(parcel: Parcel) -> str:
    kind = parcel.task_spec["kind"]
    if kind == "language":
        return "Printed is how the model goes on, or what it puts into the gap."
    return "Printed is the reply." if kind == "chat" else "Printed is what the model writes."
