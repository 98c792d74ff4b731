"""A run from recipe to report, in the six stages that fine-tuning has."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tunesmith.adapting import Setting, adapted_model, require_heads, require_new_tokens
from tunesmith.answering import (
    answered,
    choose,
    divided,
    drawn_weights,
    laid,
    look_before,
    of_records,
    refer,
    require_packing,
    settle,
    speaker_for,
)
from tunesmith.batch import concatenated, padding_for
from tunesmith.commit import write_file
from tunesmith.contracts import Adapted, Corpus, Foundation, Record, Task
from tunesmith.delivery import deploy
from tunesmith.errors import UserError, named
from tunesmith.evaluate.judge import judge, together
from tunesmith.evaluate.metrics import find, measure, worth
from tunesmith.general import changed, general, require_general, said
from tunesmith.generate import shortened, speaks, with_replies
from tunesmith.given import Outputs, Predictions
from tunesmith.house import House, Prepared, Screen
from tunesmith.prepare.audit import picture
from tunesmith.prepare.corpus import file_hashes, read_corpus, without
from tunesmith.prepare.encode import encode_corpus, lengths
from tunesmith.probing import Probe, lost, opened, require_masked_head, require_probes, watch
from tunesmith.quiet import quiet
from tunesmith.recipe import Recipe
from tunesmith.report.page import write as write_report
from tunesmith.retaining import Kept, interpolate, remember, require_retention
from tunesmith.run import Run, environment
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import parameter_counts
from tunesmith.train.journal import read_journal
from tunesmith.train.loop import Course
from tunesmith.train.plan import choose_precision, make_plan
from tunesmith.train.signals import stop_wish
from tunesmith.train.trackers import require_trackers
from tunesmith.training import Outcome, Session, cost, train
from tunesmith.world import joined

MOST_TOKENS = 512
"""Longest row by default, where the model could take more: cost grows with the square of the length."""
WIDTHS = 8
"""Widths of batches are multiples of it. Measured on a CPU in bfloat16: an eighth less time and memory."""


def run(recipe: Recipe, folder: Path, base: Path, screen: Screen) -> Path:
    """Walks the six stages and returns the run's folder; goes on where an earlier call on that folder stopped.

    base: where the recipe's relative paths start. Raises the errors of `tunesmith.errors`.
    """
    with _house(recipe, folder, base, screen) as house:
        if house.run.state == "complete" and _unchanged(house):
            return folder
        began = time.monotonic()
        foundation = select(house)
        prepared = prepare(house, foundation)
        adapted, task = adapt(house, foundation, prepared)
        prepared, task = choose(house, foundation, prepared, adapted, task)
        prepared = refer(house, prepared, adapted, task)
        before = general(house, foundation, prepared, adapted, task)
        untuned = look_before(house, foundation, prepared, adapted, task)
        probes = opened(house, foundation, prepared, adapted, task)
        kept = remember(house, foundation, prepared, adapted, task, probes)
        tune(house, foundation, prepared, adapted, task, kept, probes)
        interpolate(house, prepared, adapted, task, kept)
        task = settle(house, prepared, adapted, task)
        after = general(house, foundation, prepared, adapted, task)
        forgotten = lost(probes, adapted, task, house)
        evaluate(house, foundation, prepared, adapted, task, untuned, (before, after), forgotten)
        deploy(house, foundation, prepared, adapted, task)
        finish(house, time.monotonic() - began)
    return folder


def rehearse(recipe: Recipe, folder: Path, base: Path, screen: Screen) -> Path:
    """Trains as `run` does and ends there: the journal holds what the validation rows tell, and no row is judged."""
    with _house(recipe, folder, base, screen) as house:
        if house.run.state == "started":
            foundation = select(house)
            prepared = prepare(house, foundation)
            adapted, task = adapt(house, foundation, prepared)
            prepared, task = choose(house, foundation, prepared, adapted, task)
            prepared = refer(house, prepared, adapted, task)
            kept = remember(house, foundation, prepared, adapted, task)
            tune(house, foundation, prepared, adapted, task, kept)
    return folder


def _unchanged(house: House) -> bool:
    """Whether a complete run needs nothing more; says so, also when its data are not what they were."""
    learned, offered = house.run.read_json("audit.json")["files"], file_hashes(house.recipe.data, house.base)
    if sorted(learned.values()) != sorted(offered.values()):
        fix = "name another folder with --run to learn from them"
        raise UserError(named(house.run.folder), "is complete, and its data are not what they were", fix)
    moved = house.run.offered
    if moved is not None and moved.task != house.run.recipe().task:
        return False  # a file that the task names is compared together with the rows
    house.run.settle()
    done = house.run.state == "complete" and house.run.artifact.is_dir()
    if done:
        house.screen.say(f"{house.run.folder} is complete; nothing is left to do")
    return done


@contextmanager
def _house(recipe: Recipe, folder: Path, base: Path, screen: Screen) -> Iterator[House]:
    with joined() as world:
        torch.use_deterministic_algorithms(recipe.train.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a sixth
        if world.main:
            opened = Run.create_or_open(folder, recipe, base)
            with opened.lock():
                if opened.state != "complete":
                    opened.write_json("environment.json", {**environment(), "started": _now()})
                world.barrier()
                yield House(recipe, opened, base, world, screen)
        else:
            world.barrier()
            yield House(recipe, Run.open(folder), base, world, screen)


def select(house: House) -> Foundation:
    """The pre-trained model without its weights; refuses one that has no head for the task."""
    house.screen.stage("select", house.recipe.model.name)
    foundation = open_foundation(house.recipe.model, house.base)
    card = foundation.card
    require(house, foundation)
    require_masked_head(house, foundation)
    house.screen.say(
        f"{card.name}: {card.family} ({card.model_type}), {card.parameters / 1e6:.1f} M parameters, "
        f"{card.context_tokens} tokens of context, licence {card.licence or 'not stated'}"
    )
    house.keep("model.json", {"card": asdict(card), "notes": []})
    return foundation


def require(house: House, foundation: Foundation) -> None:
    """Refuses what the model or this machine cannot do, before weights are read. Raises UserError."""
    recipe = house.recipe
    require_heads(foundation, recipe.task, recipe.method)
    if recipe.model.new_tokens:  # of a later stage they are old ones
        require_new_tokens(foundation, recipe.task, recipe.method)
    require_packing(house, foundation)
    require_general(house, foundation)
    require_retention(house, foundation)
    require_probes(house, foundation)
    require_trackers(recipe.train.trackers)


def prepare(house: House, foundation: Foundation) -> Prepared:
    """The rows, validated, split and encoded."""
    data, run = house.recipe.data, house.run
    house.screen.stage("prepare", _sources(house.recipe))
    corpus = read_corpus(data, house.recipe.task, base=house.base, seed=house.recipe.seed)
    _require_same(house, corpus)
    most = window(foundation, house.recipe)
    cache = run.folder.parent / ".cache" if data.cache else None
    rows = encode_corpus(corpus, foundation.codec, most, cache=cache, world=house.world)
    corpus = without(corpus, {split: encoded_rows.refused for split, encoded_rows in rows.items()})
    rows = {split: encoded_rows for split, encoded_rows in rows.items() if len(encoded_rows)}
    ways = ", ".join(f"{count} {way}" for way, count in corpus.ledger.ways.items())
    house.screen.say(f"{sum(corpus.ledger.read.values())} rows read: {ways}")
    measured = lengths(rows)
    for split, facts in measured.items():
        if facts["cut_rows"]:
            house.screen.say(
                f"{split}: {facts['cut_rows']} rows are longer than {most} tokens and lose {facts['cut_tokens']}"
            )
        if facts.get("widened"):
            house.screen.say(f"{split}: {facts['widened']} spans end inside a token, and are learned as far as its end")
    for finding in corpus.findings:
        if finding.severity != "info":
            house.screen.say(f"{finding.severity}: {finding.message}")
    shown = picture(corpus)
    audit = {
        "ledger": asdict(corpus.ledger),
        "findings": [asdict(finding) for finding in corpus.findings],
        "files": dict(corpus.files),
        "fingerprint": corpus.fingerprint,
        "splits": {split: {**facts, "tokens": measured[split]} for split, facts in shown.items()},
        "max_tokens": most,
    }
    house.keep("audit.json", audit)
    if house.world.main:
        lines = (json.dumps(row, ensure_ascii=False) for row in corpus.skipped)
        write_file(run.ledger, "".join(f"{line}\n" for line in lines))
    house.keep("split.json", {split: [[r.source, r.line] for r in records] for split, records in corpus.splits.items()})
    short = shortened(corpus.task, foundation.codec, most)
    if short is not None:
        house.screen.say(short)
    pad, longest = foundation.tokenizer.pad_token_id, foundation.card.context_tokens
    padding = padding_for(corpus.task.columns(), pad, multiple=WIDTHS, longest=longest)
    return Prepared(corpus, rows, padding, most)


def window(foundation: Foundation, recipe: Recipe) -> int:
    """Most tokens of a row that the model gets to see."""
    room = foundation.card.context_tokens - recipe.method.positions(foundation.family)
    return min(room, recipe.data.max_tokens or MOST_TOKENS)


def _require_same(house: House, corpus: Corpus) -> None:
    """Refuses other data for a run that has learned, before anything of it is written over."""
    before = house.run.read_json("audit.json") if house.run.learned else None
    if before is not None and before["fingerprint"] != corpus.fingerprint:
        found = f"was trained on data {before['fingerprint'][:12]}, now it is {corpus.fingerprint[:12]}"
        raise UserError(named(house.run.folder), found, "bring it back, or start another run with --run")
    house.world.barrier()
    if house.world.main:
        house.run.settle()


def adapt(house: House, foundation: Foundation, prepared: Prepared) -> tuple[Adapted, Task]:
    """The model with the task's head, set to be tuned the recipe's way."""
    recipe, learned = house.recipe, prepared.corpus.task
    house.screen.stage("adapt", recipe.as_mapping()["method"]["kind"])
    setting = Setting(recipe.seed, recipe.train.dropout, recipe.train.gradient_checkpointing)
    adapted = adapted_model(foundation, learned, recipe.method, setting)
    torch.nn.Module.to(adapted.model, house.world.device)
    total, trainable = parameter_counts(adapted.model)
    for note in adapted.notes:
        house.screen.say(note)
    house.screen.say(f"{trainable:,} of {total:,} parameters move ({trainable / total:.2%})")
    method = recipe.as_mapping()["method"]
    house.keep(
        "parameters.json",
        {"total": total, "trainable": trainable, "head": list(adapted.head), "notes": adapted.notes, "method": method},
    )
    return adapted, learned.suit(adapted.model)


def tune(
    house: House,
    foundation: Foundation,
    prepared: Prepared,
    adapted: Adapted,
    task: Task,
    kept: Kept,
    probes: Sequence[Probe] = (),
) -> Outcome:
    """Trains the model; it ends with the weights that the recipe asks for.

    kept: what is held on to meanwhile. probes: what is asked meanwhile, where the recipe wants that.
    """
    recipe, rows = house.recipe, prepared.encoded["train"]
    precision = choose_precision(recipe.train.precision, foundation.card.model_type, house.world.device)
    peak = recipe.train.learning_rate or recipe.method.learning_rate
    plan = make_plan(recipe.train, rows=len(rows), seed=recipe.seed, peak=peak, precision=precision)
    house.screen.stage(
        "train", f"{plan.steps} steps of {recipe.train.batch_size} rows in {precision}, peak rate {peak:g}"
    )
    weights = drawn_weights(task, prepared)
    padding = laid(house, foundation, prepared, adapted, task)
    replayed = None if kept.replay is None else (len(kept.replay), kept.share)
    data = rows if kept.replay is None else concatenated([rows, kept.replay])
    penalties = (*adapted.penalties, *kept.penalties)
    course = Course(task, data, padding, plan, house.world, weights, penalties, kept.tutor, replayed, adapted.tend)
    shown, speaker = recipe.evaluate.validation_replies, speaker_for(house, foundation, prepared)
    spoken = speaks(task, foundation.codec)
    watched = recipe.train.stop.metric or ("loss" if task.parts or (spoken and not shown) else task.metrics[0])

    def measured(model: torch.nn.Module, outputs: Outputs, records: Sequence[Record]) -> dict[str, float | None]:
        if spoken and shown:
            records = records[:shown]
            outputs = with_replies(model, task, of_records(outputs, records), records, speaker)
        return measure(task.settle(outputs, records, worth).predictions(outputs, records), task.metrics)

    session = Session(
        run=house.run,
        corpus=replace(prepared.corpus, task=task),
        adapted=adapted,
        encoded=prepared.encoded,
        course=course,
        measure=measured,
        metric=watched if watched == "loss" else find(watched).name,
        higher_is_better=watched != "loss" and find(watched).higher_is_better,
        probe=lambda model: watch(probes, model, task),
        probe_every=recipe.evaluate.probe_every,
        facts={
            "data": kept.fingerprint(prepared.corpus.fingerprint),
            "base": foundation.card.weights_sha256,
            "processes": house.world.size,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": house.world.device.type,
        },
    )
    # Elsewhere a signal ends the run at once: nothing would be lost. What libraries think of a step is for nobody.
    with stop_wish() as wish, quiet():
        outcome = train(session, wish, house.screen)
    best = "" if outcome.weights_of == outcome.steps else f", with the weights of step {outcome.weights_of}"
    house.screen.say(f"{outcome.reason} after {outcome.steps} steps{best}")
    if house.world.main:
        house.run.mark("trained")
    return outcome


def evaluate(
    house: House,
    foundation: Foundation,
    prepared: Prepared,
    adapted: Adapted,
    task: Task,
    untuned: Predictions | None = None,
    texts: tuple[Predictions | None, Predictions | None] = (None, None),
    forgotten: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Judges the tuned model on the test split, or where there is none on the validation split.

    untuned: what it answered before it was tuned. texts: how likely it found general texts before and after.
    forgotten: what became of the probes.
    """
    corpus, split = prepared.corpus, prepared.judged
    beside_others = ", beside simple baselines" if house.recipe.evaluate.baselines and split != "train" else ""
    house.screen.stage("evaluate", f"{len(corpus.splits[split])} {split} rows{beside_others}")
    outputs = answered(house, foundation, prepared, adapted, task)
    if not house.world.main:
        return
    options, seed = house.recipe.evaluate, house.recipe.seed
    found, lines = {}, []
    for name, part in divided(task, corpus.splits, split, outputs, untuned).items():
        found[name] = judge(
            part.predictions,
            part.task,
            splits=part.splits,
            split=split,
            options=options,
            seed=seed,
            remarks=_remarks(corpus, split),
            untuned=part.untuned,
            chosen=_chosen(house.recipe),
        )
        lines += part.lines()
    whole = found[""] if "" in found else together(found, task, len(corpus.splits[split]))
    if texts[0] is not None and texts[1] is not None:
        whole["general"] = changed(texts[0], texts[1], house)
        house.screen.say(said(whole["general"]))
    if forgotten:
        whole["retention"] = forgotten
    house.keep("evaluation.json", whole)
    write_file(house.run.predictions, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    for name, one in found.items():
        house.screen.say(f"{name}: {one['verdict']}" if name else one["verdict"])


def _chosen(recipe: Recipe) -> list[str]:
    """What validation rows decide."""
    chosen = ["the template"] if recipe.task.variants else []
    if recipe.retain.interpolate is not None:
        chosen.append("how far to go from the base")
    return chosen if recipe.train.max_steps == 0 else ["when to stop", *chosen]


def _remarks(corpus: Corpus, split: str) -> list[str]:
    left_out = corpus.unjudged.get(split, 0)
    return (
        [f"{left_out} more {split} rows cannot be judged (the ledger says why), and are not counted"]
        if left_out
        else []
    )


def finish(house: House, seconds: float) -> None:
    """Writes what the run cost and the report, and marks the run as complete."""
    if not house.world.main:
        return
    house.keep("cost.json", cost(house.run, read_journal(house.run.journal), seconds))
    facts = house.run.read_json("environment.json")
    house.keep("environment.json", {**facts, "finished": _now()})
    page = write_report(house.run.folder)
    house.run.mark("complete")
    house.screen.stage("report", str(page))


def _sources(recipe: Recipe) -> str:
    train = recipe.data.train
    return train if isinstance(train, str) else ", ".join(train)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
