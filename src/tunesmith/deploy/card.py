"""The model card: what the artefact is, how to load it without tunesmith, what was measured, and what was not."""

from collections.abc import Mapping
from typing import Any

import yaml

from tunesmith.contracts import Family
from tunesmith.deploy.parcel import Parcel
from tunesmith.deploy.usage import usage
from tunesmith.figures import interval

PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
}
SHOWN_LABELS = 100


def model_card(kind: str, parcel: Parcel) -> str:
    """The card as markdown with a YAML head. Nothing in it that came from data can act as markup."""
    facts, card = parcel.facts, parcel.foundation.card
    evaluation: Mapping[str, Any] = facts.get("evaluation") or {}
    kind_of = f"{'a' if card.family is Family.DECODER else 'an'} {card.family}"
    made = "merged" if "merged" in facts else "fine-tuned"
    parts = [
        _head(kind, parcel, evaluation),
        f"# {inert(facts.get('name') or 'tuned model')}\n",
        f"{inert(card.name)}, {kind_of} model ({inert(card.model_type)}), {made} with tunesmith: "
        f"task `{_code(parcel.task_spec['kind'])}`, method `{_code(facts['method']['kind'])}`.\n",
        "## Use\n\n" + usage(kind, parcel),
        _labels(parcel),
        *(["## Merged\n\n" + _merged(facts["merged"])] if "merged" in facts else []),
        "## Data\n\n" + _data(facts),
        "## Results\n\n" + _results(evaluation),
        "## Limits\n\n"
        "Measured on the rows named above and on nothing else. Not measured: what the model forgot, how it treats "
        "groups of people, how it bears noise and attacks, and how well its probabilities are calibrated. Rows longer "
        f"than {parcel.max_tokens} tokens are cut.\n",
        "## Made with\n\n" + _made(facts),
    ]
    return "\n".join(parts)


def inert(text: object) -> str:
    """`text` on one line, with everything that markdown or HTML could act on escaped."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]()#!|~{}" else c for c in plain)


def _code(text: object) -> str:
    """`text` for use inside backticks."""
    return "".join(c if c.isprintable() and c != "`" else " " for c in str(text))


def _head(kind: str, parcel: Parcel, evaluation: Mapping[str, Any]) -> str:
    facts, card = parcel.facts, parcel.foundation.card
    head: dict[str, Any] = {
        "license": facts.get("licence") or card.licence or "unknown",
        "base_model": parcel.foundation.portable_name,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": PIPELINES.get(parcel.auto_class),
        "tags": ["tunesmith", str(parcel.task_spec["kind"]), str(facts["method"]["kind"])],
        "language": list(card.languages) or None,
    }
    main = evaluation.get("main")
    if main and evaluation["metrics"][main]["value"] is not None:
        result = {
            "task": {"type": PIPELINES.get(parcel.auto_class) or "other"},
            "dataset": {"name": ", ".join(facts.get("files") or {}) or "own data", "type": "private"},
            "metrics": [{"type": main, "value": round(evaluation["metrics"][main]["value"], 6)}],
        }
        head["metrics"] = [main]
        head["model-index"] = [{"name": facts.get("name") or "tuned model", "results": [result]}]
    kept = {key: value for key, value in head.items() if value is not None}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---\n"


def _labels(parcel: Parcel) -> str:
    names = list(parcel.task.head().get("id2label", {}).values())
    if not names:
        return ""
    shown = ", ".join(f"`{_code(name)}`" for name in names[:SHOWN_LABELS])
    more = f" and {len(names) - SHOWN_LABELS} more" if len(names) > SHOWN_LABELS else ""
    return f"Outputs in order: {shown}{more}.\n"


WAYS = {
    "linear": "The weighted sum",
    "ties": "TIES (arXiv:2306.01708)",
    "dare_linear": "DARE and the weighted sum (arXiv:2311.03099)",
    "dare_ties": "DARE and TIES (arXiv:2311.03099, arXiv:2306.01708)",
    "magnitude_prune": "The weighted sum of the largest entries",
}
"""How adapters were made one, in words."""


def _merged(facts: Mapping[str, Any]) -> str:
    """Which adapters this one was made of."""
    rows = [
        f"| {inert(one['name'])} | {one['weight']:g} | {one['share']:.4g} | `{_code(one['sha256'])}` |"
        for one in facts["adapters"]
    ]
    table = "\n".join(["| adapter | weight | share | sha256 of its weights |", "|---|---|---|---|", *rows])
    notes = "".join(f"\n{inert(note)}.\n" for note in facts["notes"])
    if facts["rank"] is None:
        return f"The average of these adapters' values and of their heads, by the shares.\n\n{table}\n{notes}"
    kept = "" if facts["density"] is None else f", density {facts['density']:g}"
    drawn = f", seed {facts['seed']}" if facts["seed"] is not None else ""
    return (
        f"{WAYS[facts['how']]}{kept}{drawn}, of what these adapters change, times the weights, at rank "
        f"{facts['rank']}. Heads and the rows of new tokens are averages by the shares.\n\n{table}\n{notes}"
    )


def _data(facts: Mapping[str, Any]) -> str:
    ways = ", ".join(f"{count} {inert(way)}" for way, count in (facts.get("ways") or {}).items())
    files = "".join(
        f"- `{_code(name)}`, sha256 `{_code(digest)}`\n" for name, digest in (facts.get("files") or {}).items()
    )
    return f"Rows: {ways or 'not recorded'}.\n\n{files}"


def _results(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return "Not measured.\n"
    rows = [
        f"{inert(evaluation['verdict'])}.\n",
        "| what | " + f"{inert(evaluation['main'])} | difference, p |",
        "|---|---|---|",
    ]
    level = f"{evaluation['level']:.0%}"
    rows.append(f"| this model | {_interval(evaluation['metrics'][evaluation['main']])} | |")
    for other in evaluation["baselines"]:
        p = other["p_value"]
        gap = f"{_interval(other['difference'])}, p = {'–' if p is None else f'{p:.3g}'}"
        rows.append(f"| {inert(other['label'])} | {_interval(other['metrics'][evaluation['main']])} | {gap} |")
    others = ", ".join(
        f"{inert(name)} {entry['value']:.4g}"
        for name, entry in evaluation["metrics"].items()
        if name != evaluation["main"] and entry["value"] is not None
    )
    return "\n".join(rows) + f"\n\nIntervals at {level}, from resampling rows. Other metrics: {others or 'none'}.\n"


def _interval(entry: Mapping[str, Any]) -> str:
    return interval(entry.get("value"), entry.get("low"), entry.get("high"))


def _made(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{_code(name)} {_code(version)}" for name, version in (facts.get("packages") or {}).items())
    recipe = facts.get("recipe_sha256")
    return f"{packages}.{f' Recipe sha256 `{_code(recipe)}`.' if recipe else ''}\n"
