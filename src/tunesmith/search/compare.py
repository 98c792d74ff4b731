"""A bake-off: several methods on one recipe's data with equal budgets, each trial a run in a process of its own."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.commit import locked, write_file
from tunesmith.errors import UserError, named
from tunesmith.figures import figures
from tunesmith.house import Screen
from tunesmith.recipe import Recipe
from tunesmith.report.comparison import write as write_report
from tunesmith.run import Run, environment, is_run
from tunesmith.search.crew import Crew, Job
from tunesmith.search.options import CompareOptions
from tunesmith.search.plan import FACTORS, Ground, own_rate, probe_recipe, suited, survey, trial_recipe
from tunesmith.search.results import FORMAT, Trial, results
from tunesmith.search.variants import Variant, read_variants
from tunesmith.train.journal import read_journal

FILE, PLAN, TRIALS = "comparison.json", "plan.json", "trials"
MOST_THREADS = 2
"""Of a trial, where the environment says nothing: the same on every machine with as many cores, whatever the jobs."""


@dataclass
class Bench:
    """What the trials of a comparison share. rates: what each method was found to learn best with, and how."""

    recipe: Recipe
    options: CompareOptions
    folder: Path
    base: Path
    ground: Ground
    crew: Crew
    screen: Screen
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)


def compare(recipe: Recipe, options: CompareOptions, folder: Path, base: Path, screen: Screen) -> dict[str, Any]:
    """Carries out every trial that is not there yet, and returns what comparison.json then holds.

    base: where the recipe's relative paths start. A trial that fails is a result. Raises the errors of
    `tunesmith.errors`.
    """
    if recipe.stages:
        raise UserError("stages", "are several trainings, and methods are compared on one", "leave the key out")
    variants = read_variants(options.methods, recipe)
    _require_room(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        screen.stage("plan", f"{len(variants)} methods, {options.seeds} seeds")
        foundation, able, refused = suited(variants, recipe, base)
        for variant in variants:
            if variant.name in refused:
                screen.say(f"{variant.text} cannot be used here: {refused[variant.name]}")
        ground = survey(recipe, foundation, base, folder / TRIALS / ".cache")
        bench = Bench(recipe, options, folder, base, ground, _crew(options, folder), screen)
        _keep(folder, options=options.model_dump(mode="json"))
        rows = ", ".join(f"{count} {split}" for split, count in ground.rows.items())
        screen.say(f"{ground.steps} steps of {recipe.train.batch_size} rows for each trial, of the same split: {rows}")
        _rates(bench, able)
        trials = _try(bench, able)
        found = results(bench.recipe, options, ground, variants, refused, bench.rates, trials)
        found |= {"name": folder.name, "threads": bench.crew.threads, "jobs": bench.crew.jobs}
        found["environment"] = environment()
        write_file(folder / FILE, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        screen.stage("report", str(write_report(folder)))
    return found


def _require_room(folder: Path) -> None:
    """Refuses a folder that holds something else than a comparison."""
    where, fix = named(folder), "name another folder with --run"
    if folder.exists() and not folder.is_dir():
        raise UserError(where, "is a file", fix)
    if is_run(folder):
        raise UserError(where, "holds a run", fix)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if names - {".lock"} and not names & {FILE, PLAN}:
        raise UserError(where, "is not empty and holds no comparison", fix)


def _crew(options: CompareOptions, folder: Path) -> Crew:
    """How many trials at a time, and with how many threads each: those that the comparison began with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wished = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wished) if wished.isdigit() and int(wished) else min(MOST_THREADS, cores)
    threads = _plan(folder).get("threads", threads)
    _keep(folder, threads=threads)
    usual = 1 if torch.cuda.is_available() else max(1, cores // 2)
    return Crew(options.jobs or usual, threads)


def _plan(folder: Path) -> dict[str, Any]:
    """What was settled before, so that it stays so when the comparison goes on."""
    path = folder / PLAN
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {"format": FORMAT}
    return found


def _keep(folder: Path, **settled: Any) -> None:
    write_file(folder / PLAN, json.dumps({**_plan(folder), **settled}, indent=1, ensure_ascii=False) + "\n")


def _rates(bench: Bench, able: Sequence[Variant]) -> None:
    """Settles the rate of each method once and for all trials of this folder."""
    kept = _plan(bench.folder).get("rates", {})
    wanted = "probe" if bench.options.rates == "probe" and "validation" in bench.ground.rows else "default"
    if wanted != bench.options.rates:
        bench.screen.say("there are no validation rows to find rates with, so each method has its own")
    for variant in able:
        how = kept.get(variant.name, {}).get("how", wanted)
        if how != wanted:
            begun = f"has the rate of {variant.text} by --rates {how}"
            raise UserError(named(bench.folder), begun, "name another folder with --run, or take that back")
    new = [variant for variant in able if variant.name not in kept]
    found = _probe(bench, new) if wanted == "probe" and new else {}
    for variant in new:
        own = {"rate": own_rate(variant, bench.recipe), "probes": []}
        kept[variant.name] = {"how": wanted, **found.get(variant.name, own)}
    _keep(bench.folder, rates=kept)
    bench.rates = kept


def _probe(bench: Bench, variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """Each method's rate whose short trial has the lowest loss on the validation rows; its own where all failed."""
    own = {variant.name: own_rate(variant, bench.recipe) for variant in variants}
    tried = {name: [float(f"{rate * factor:.2g}") for factor in FACTORS] for name, rate in own.items()}
    bench.screen.stage(
        "rates", f"{len(FACTORS)} for each method, {bench.ground.probed_steps} steps, by validation loss"
    )
    places, jobs = {}, list[Job]()
    for variant in variants:
        for rate in tried[variant.name]:
            folder = bench.folder / TRIALS / f"{variant.name}-rate{rate:g}"
            places[variant.name, rate] = folder
            jobs += _open(bench, folder, probe_recipe(bench.recipe, variant, bench.ground, rate=rate), "rehearse")
    failed = _carried_out(bench, jobs)
    found = {}
    for variant in variants:
        name = variant.name
        probes = [_probed(rate, places[name, rate], failed) for rate in tried[name]]
        known = [probe for probe in probes if probe["loss"] is not None]
        best = min(known, key=lambda probe: probe["loss"])["rate"] if known else own[name]
        found[name] = {"rate": best, "probes": probes}
        losses = ", ".join(f"{probe['rate']:g}: {figures(probe['loss'])[0]}" for probe in probes)
        bench.screen.say(f"{variant.text}: rate {best:g} (validation loss by rate {losses})")
    for folder in places.values():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # as large as those of trials, and of no more use
    return found


def _probed(rate: float, folder: Path, failed: Mapping[Path, str]) -> dict[str, Any]:
    """What a probe found: the loss on the validation rows at its end, or why there is none."""
    seen = [event for event in read_journal(folder / "journal.jsonl") if event["event"] == "evaluation"]
    loss = seen[-1]["loss"] if seen and folder not in failed else None
    return {
        "rate": rate,
        "loss": loss if loss is not None and math.isfinite(loss) else None,
        "failed": failed.get(folder),
    }


def _try(bench: Bench, able: Sequence[Variant]) -> list[Trial]:
    """Every method with every seed, in folders of their own; seed by seed, so that all methods come on alike."""
    seeds = range(bench.recipe.seed, bench.recipe.seed + bench.options.seeds)
    bench.screen.stage("trials", f"{len(able) * len(seeds)} runs, {bench.crew.jobs} at a time")
    places, jobs, planned = {}, list[Job](), []
    for seed in seeds:
        for variant in able:
            folder, rate = bench.folder / TRIALS / f"{variant.name}-seed{seed}", bench.rates[variant.name]["rate"]
            places[variant.name, seed] = folder
            planned.append({"folder": folder.name, "method": variant.text, "seed": seed, "rate": rate})
            jobs += _open(bench, folder, trial_recipe(bench.recipe, variant, seed=seed, rate=rate), "run")
    _keep(bench.folder, trials=planned)
    failed = _carried_out(bench, jobs)
    return [Trial(name, seed, folder, failed.get(folder)) for (name, seed), folder in places.items()]


def _open(bench: Bench, folder: Path, recipe: Recipe, way: Any) -> list[Job]:
    """The job of a trial that is not done; its folder holds its recipe. Refuses one that was made from other data."""
    run = Run.create_or_open(folder, recipe, bench.base)
    audit = run.read_json("audit.json")
    if run.learned and audit and audit["fingerprint"] != bench.ground.fingerprint:
        found = f"was trained on data {audit['fingerprint'][:12]}, now it is {bench.ground.fingerprint[:12]}"
        raise UserError(named(folder), found, "bring it back, or start another comparison with --run")
    done = run.state != "started" if way == "rehearse" else run.state == "complete"
    return [] if done else [Job(folder, way)]


def _carried_out(bench: Bench, jobs: Sequence[Job]) -> dict[Path, str]:
    """Carries jobs out; why those failed that did."""
    failed: dict[Path, str] = {}

    def tell(job: Job, why: str | None) -> None:
        if why is not None:
            failed[job.folder] = why
            bench.screen.say(f"{job.folder.name} failed: {why}")
        elif job.way == "run":
            judged = Run.open(job.folder).read_json("evaluation.json")
            score = judged["metrics"][judged["main"]]["value"]
            bench.screen.say(f"{job.folder.name}: {judged['main']} {figures(score)[0]}")

    bench.crew.carry_out(jobs, tell)
    return failed
