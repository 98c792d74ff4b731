"""The page of a run: whole without anything else, true to the run's files, and deaf to what data texts ask of it."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from finished_run import card, numbers, several, single
from tunesmith.evaluate.judge import judge
from tunesmith.evaluate.lines import prediction_line
from tunesmith.evaluate.options import EvaluateOptions
from tunesmith.figures import figures
from tunesmith.forward import Inference, all_outputs
from tunesmith.generate import Speaker, with_replies
from tunesmith.recipe import recipe_from
from tunesmith.report.page import MOST_LABELS_DRAWN, count, duration, share, size, visible, write
from tunesmith.report.rows import SHOWN_TEXTS, WORST_ROWS, answered, right
from tunesmith.run import Run
from workshop import CPU, bench

VOID = {"meta", "br", "link", "img", "input", "hr", "base", "embed", "source"}
LOADING = {"src", "srcset", "poster", "action", "formaction", "data", "background", "ping", "manifest", "srcdoc"}
SECTIONS = [
    "What was run",
    "Data",
    "Training",
    "Results on the test rows",
    "The worst mistakes",
    "Delivered, and what it cost",
    "Not measured",
    "To do it again",
]
HOSTILE = (
    '<script>document.title="taken"</script>',
    "</script><script>document.title='taken'</script>",
    "</title></style><svg onload=document.title='taken'>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "'><a href='javascript:document.title=1' autofocus onfocus=document.title=1>",
    "{{7*7}}{% for x in y %}{{ config }}",
    "--><!--[if IE]>",
    "]]>&lt;script&gt;",
    "\u202egnp.exe\u2066\x1b[31m\x00\x07",
    "http://127.0.0.1/x.js",
    "=1+1;url(http://127.0.0.1/y)",
    "#010203 #070809",
    "donaudampfschiff" * 6,
)


class Seen(HTMLParser):
    """Every tag with its attributes, every text that a reader sees, and how the tags stand in each other."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def text(self, *tags: str) -> str:
        parts = (data for tag, found in self.texts.items() if tag in tags or not tags for data in found)
        return " ".join(" ".join(parts).split())

    def shape(self) -> Counter[tuple[str, tuple[str, ...]]]:
        """How often each tag stands there with which attributes."""
        return Counter((tag, tuple(sorted(attributes))) for tag, attributes in self.tags)


def table(seen: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, tags taken away."""
    part = seen[seen.index(heading) :]
    rows = re.findall(r"<tr>(.*?)</tr>", part[: part.index("</table>")], re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


KINDS: dict[str, Callable[[Path], Path]] = {
    "one label": single,
    "several labels": lambda folder: several(folder, bare=True),
    "a number": lambda folder: numbers(folder, bare=True),
    "two numbers": lambda folder: numbers(folder, ("stars", "days"), bare=True),
}


def read(folder: Path) -> tuple[str, Seen]:
    path = write(folder)
    assert path == folder / "report.html"
    page = path.read_text(encoding="utf-8")
    return page, Seen(page)


@cache
def once(folder: Path) -> tuple[str, Seen]:
    """The page of a run that no test changes."""
    return read(folder)


def evaluation(folder: Path) -> Any:
    return json.loads((folder / "evaluation.json").read_bytes())


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def is_inert(seen: Seen) -> None:
    """Nothing on the page runs or is loaded."""
    for tag, attributes in seen.tags:
        assert tag not in ("script", "img", "iframe", "object", "embed", "link", "base", "form", "a", "video", "audio")
        assert not [name for name in attributes if name.startswith("on") or name in LOADING]
        for name, value in attributes.items():
            assert "href" not in name or (value or "").startswith("#") or name.startswith("xmlns")
            assert name.startswith("xmlns") or "url(" not in (value or "").replace("url(#", "") or name == "title"
    assert not re.search(r"@import|url\((?!#)", seen.text("style"))
    assert seen.open == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ready(runs: Path) -> Callable[[str], Path]:
    """Makes a run of each kind once, for tests that only look at it."""
    return cache(lambda kind: KINDS[kind](runs / kind / "a run"))


@pytest.fixture(scope="module")
def hostile(runs: Path) -> Path:
    """A run in which every text that comes from outside tries something."""
    return single(
        runs / "<img src=x onerror=document.title=1>{{7*7}}",
        labels=HOSTILE,
        rows=24 * len(HOSTILE),
        texts=[f"{text} {text * 20 if place % 2 else ''}" for place, text in enumerate(HOSTILE)],
        file=HOSTILE[3],
        finding=" ".join(HOSTILE),
        model=card(HOSTILE[0], revision=HOSTILE[1], licence=HOSTILE[3], languages=HOSTILE, model_type=HOSTILE[2]),
        note=HOSTILE[1],
        kind=HOSTILE[3],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_a_finished_run_is_whole_and_loads_nothing(kind: str, ready: Callable[[str], Path]) -> None:
    page, seen = once(ready(kind))
    is_inert(seen)
    assert seen.text("title") == "a run · tunesmith report"
    wanted = [name for name in SECTIONS if name != "Training" or kind == "one label"]
    assert [" ".join(data.split()) for data in seen.texts["h2"]] == wanted
    policy = [attributes for tag, attributes in seen.tags if tag == "meta" and "http-equiv" in attributes]
    assert [each["content"] for each in policy] == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "currentColor" in page
    assert not re.search("#0[147a]0[258b]0[369c]", page)
    links = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_page_is_the_same_each_time(ready: Callable[[str], Path]) -> None:
    assert read(ready("one label"))[0] == once(ready("one label"))[0]


def test_a_run_that_has_just_started_has_a_page(tmp_path: Path) -> None:
    made = recipe_from({"model": "builtin:minilm", "task": "classification", "data": "rows.csv"})
    page, seen = read(Run.create_or_open(tmp_path / "run", made, tmp_path).folder)
    is_inert(seen)
    assert "This run has not been evaluated." in page
    assert [" ".join(data.split()) for data in seen.texts["h2"]] == [
        SECTIONS[0],
        *SECTIONS[5:],
    ]
    assert "Nothing was exported." in page


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    page, seen = read(tmp_path)
    is_inert(seen)
    assert "This run has not been evaluated." in page


def test_any_file_may_be_missing(tmp_path: Path) -> None:
    folder = single(tmp_path / "run", bare=True)
    assert not (folder / "journal.jsonl").exists()
    is_inert(read(folder)[1])
    names = ("recipe.yaml", "model.json", "parameters.json", "environment.json", "audit.json", "evaluation.json")
    for name in (*names, "cost.json", "deploy.json", "predictions.jsonl"):
        (folder / name).rename(folder / "away")
        is_inert(read(folder)[1])
        (folder / "away").rename(folder / name)


def test_texts_of_the_data_stay_texts(hostile: Path) -> None:
    page, seen = once(hostile)
    is_inert(seen)
    assert "49" not in seen.text("title", "h1")
    assert seen.text("title") == f"{hostile.name} · tunesmith report"
    for text in HOSTILE:
        assert escape(str(visible(text))) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    everything = seen.text() + "".join(str(value) for _, attributes in seen.tags for value in attributes.values())
    for text in HOSTILE[:7]:
        assert text in everything


def test_data_adds_no_tag_and_no_attribute(hostile: Path, runs: Path) -> None:
    """The page of the same run with harmless words has the same tags, each with the same attributes."""
    plain = [f"word {place}" for place in range(len(HOSTILE))]
    quiet = single(
        runs / "quiet",
        labels=plain,
        rows=24 * len(plain),
        texts=[f"{text} {text * 60 if place % 2 else ''}" for place, text in enumerate(plain)],
        model=card("word", revision="word", licence="word", languages=plain),
    )
    assert once(hostile)[1].shape() == read(quiet)[1].shape()


def test_hidden_characters_are_written_out(hostile: Path) -> None:
    page, _ = once(hostile)
    assert "⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+001B⟩[31m⟨U+0000⟩⟨U+0007⟩" in page
    assert not set(page) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\x00\x07\x1b")


def test_visible_leaves_what_people_write() -> None:
    for text in (
        "a\nb\tc",
        "naïve – “quoted” …",
        "我的\u3000包裹",
        "12\u00a0000\u202f€",
        "می\u200cخواهم",
        "👩\u200d👩\u200d👧",
        "שלום",
    ):
        assert visible(text) == text
    assert visible("a\u200bb\ufeffc\u2028d\x85e\udc80") == "a⟨U+200B⟩b⟨U+FEFF⟩c⟨U+2028⟩d⟨U+0085⟩e⟨U+DC80⟩"
    assert visible("\U000e0041") == "⟨U+E0041⟩"
    assert visible(Markup("<b>")) == Markup("<b>")
    assert visible(None) is None
    assert visible(3) == 3


def test_names_of_targets_stay_texts_in_the_plots(tmp_path: Path) -> None:
    names = (*(HOSTILE[place] for place in (0, 3, 5, 7, 8, 11)), "数 字", "😀 $x^2$ \\alpha")
    folder = numbers(tmp_path / "run", names, bare=True)
    page, seen = read(folder)
    is_inert(seen)
    assert sum(tag == "svg" for tag, _ in seen.tags) == len(names) + 2
    labels = [data.removesuffix(": right") for data in seen.texts["text"] if data.endswith(": right")]
    assert labels == [str(visible(name)) for name in names]
    assert not set(page) & set("\u202e\u2066\x00\x07\x1b")


def test_numbers_of_a_task_of_ones_own_are_drawn_whatever_its_options_are_called(tmp_path: Path) -> None:
    folder = numbers(tmp_path / "run", ("length", "height"), bare=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("target:", "what:"))
    _, seen = read(folder)
    assert [data.removesuffix(": right") for data in seen.texts["text"] if data.endswith(": right")] == [
        "length",
        "height",
    ]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    alone = [{**line, "gold": line["gold"][0], "answer": line["answer"]["length"]} for line in lines]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in alone))
    (folder / "evaluation.json").write_text(json.dumps({**evaluation(folder), "targets": ["size"]}))
    _, seen = read(folder)
    assert [data for data in seen.texts["text"] if data.endswith(": right")] == ["size: right"]


def test_numbers_are_those_of_the_files(ready: Callable[[str], Path]) -> None:
    folder = ready("one label")
    page, seen = once(folder)
    found = evaluation(folder)
    main = found["metrics"]["accuracy"]
    assert seen.texts["b"] == [f"{main['value']:.3f}"]
    assert f"between {main['low']:.3f} and {main['high']:.3f} at 95 %" in seen.text("span")
    assert found["verdict"] + "." in seen.text("p")
    shown = dict(table(page, "All metrics"))
    assert shown == {name: f"{entry['value']:.3f}" for name, entry in found["metrics"].items()}
    rows = table(page, "compared with")
    for row, other in zip(rows, found["baselines"], strict=True):
        gap = other["difference"]
        limits = f"{gap['low']:.3f} to {gap['high']:.3f}"
        assert row == [other["label"], f"{gap['value']:.3f}", limits, *figures(other["p_value"])]
    classes = table(page, "Each label")[1:]
    for row, entry in zip(classes, found["per_class"], strict=True):
        values = [f"{entry[name]:.3f}" for name in ("precision", "recall", "f1")]
        assert row == [entry["label"], *values, str(entry["support"])]
    assert table(page, "Where every row went") == [
        ["read from rows.jsonl", "62"],
        ["train", "30"],
        ["test", "30"],
        ["left out: empty_text", "2"],
    ]
    for fact in ("22,713,216", "1,234,567 of 22,713,216 parameters (5.4 %)", "1 min 23 s", "1 h 6 min", "1.50 GB"):
        assert fact in seen.text("dd")
    assert "90.9 MB" in page
    assert "planned end after 30 steps; weights of step 20" in seen.text("dd")


def test_the_confusion_is_that_of_the_file(ready: Callable[[str], Path]) -> None:
    folder = ready("one label")
    page, _ = once(folder)
    confused = evaluation(folder)["confusion"]
    cells = {
        f"{gold} → {given}: {confused['counts'][i][j]}"
        for i, gold in enumerate(confused["labels"])
        for j, given in enumerate(confused["labels"])
    }
    assert set(re.findall(r'<td title="([^"]*)"', page)) == cells
    pairs = table(page, "Most often confused")[1:]
    counts = [int(row[2]) for row in pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(not row["correct"] for row in answers(folder))
    for gold, given, rows in pairs:
        places = confused["labels"].index(gold), confused["labels"].index(given)
        assert confused["counts"][places[0]][places[1]] == int(rows)


def test_the_surest_mistakes_come_first(tmp_path: Path) -> None:
    folder = single(tmp_path / "run", rows=240, bare=True)
    page, seen = read(folder)
    wrong = sorted((row for row in answers(folder) if not row["correct"]), key=lambda row: -row["confidence"])
    assert len(wrong) > WORST_ROWS
    shown = [float(found) for found in re.findall(r"([\d.]+) % sure", seen.text("span"))]
    assert shown == [round(100 * row["confidence"], 1) for row in wrong[:WORST_ROWS]]
    assert shown == sorted(shown, reverse=True)
    for row in wrong[:WORST_ROWS]:
        assert f'<div class="text">{row["text"]}</div>' in page
        assert row["where"] in page
    assert not any(f'<div class="text">{row["text"]}</div>' in page for row in answers(folder) if row["correct"])


def test_the_farthest_off_come_first(ready: Callable[[str], Path]) -> None:
    folder = ready("two numbers")
    _, seen = once(folder)
    far = sorted((row["error"] for row in answers(folder)), reverse=True)[:WORST_ROWS]
    assert re.findall(r"off by ([\d.,]+)", seen.text("span")) == [figures(error)[0] for error in far]


def test_wrong_sets_of_labels_are_told_also_when_empty(ready: Callable[[str], Path]) -> None:
    folder = ready("several labels")
    _, seen = once(folder)
    wrong = [row for row in answers(folder) if not row["correct"]]
    wrong.sort(key=lambda row: -row["confidence"])
    wanted = [", ".join(row[key]) or "none" for row in wrong for key in ("gold", "answer")]
    assert "none" in wanted
    assert "late, broken" in wanted
    assert [text.strip() for text in seen.texts["strong"]][1:] == wanted


def judged_by(folder: Path, family: str, task_kind: str, untuned: str | None = None) -> Path:
    """A folder with what is kept of how a tiny model did at a task: evaluation.json and predictions.jsonl."""
    one = bench(folder / family, family, task_kind, "full")
    run = Inference(CPU)
    passed = all_outputs(one.adapted.model, one.task, one.data, one.padding, run)
    speaker = Speaker(one.foundation.codec, 64, run)
    outputs = with_replies(one.adapted.model, one.task, passed.outputs, one.records, speaker)
    found, given = one.task.predictions(outputs, one.records), one.task.answers(outputs, one.records)
    splits = {"train": one.records, "test": one.records}
    options = EvaluateOptions(resamples=100, baselines=False)
    made = judge(found, one.task, splits=splits, split="test", options=options, seed=0)
    (folder / "evaluation.json").write_text(json.dumps(made), encoding="utf-8")
    lines = [prediction_line(found, place, row, given[place]) for place, row in enumerate(one.records)]
    lines = [line if untuned is None else {**line, "untuned": untuned} for line in lines]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("bert", "ner"),
        ("roberta", "span_qa"),
        ("bert", "multiple_choice"),
        ("gpt2", "generation"),
        ("bart", "chat"),
        ("gpt2", "preference"),
        ("bert", "language"),
    ],
)
def test_every_task_has_a_page(family: str, task: str, tmp_path: Path) -> None:
    page, seen = read(judged_by(tmp_path, family, task))
    is_inert(seen)
    assert ("Answers side by side" in page) == (task in ("generation", "chat"))
    made = evaluation(tmp_path)
    for name in made["metrics"]:
        assert name in seen.text("td")
    for note in (entry["note"] for entry in made["metrics"].values() if "note" in entry):
        assert note in seen.text("span")


def test_texts_stand_side_by_side_with_the_untuned_model_s(tmp_path: Path) -> None:
    page, _ = read(judged_by(tmp_path, "gpt2", "generation", untuned="what <b>it</b> said before"))
    part = page[page.index("Answers side by side") : page.index("The worst mistakes")]
    assert part.count("before tuning") == len(answers(tmp_path))
    assert "what &lt;b&gt;it&lt;/b&gt; said before" in part
    for row in answers(tmp_path):
        assert escape(row["text"]) in part
        assert escape(row["gold"][0]) in part
    page, _ = read(judged_by(tmp_path / "other", "gpt2", "generation"))
    assert "before tuning" not in page


def test_only_the_first_texts_are_shown(tmp_path: Path) -> None:
    line = {"where": "x", "text": "asked", "gold": ["right"], "answer": "given", "correct": False, "confidence": None}
    rows = [{**line, "text": f"asked {place}", "error": None, "scores": {}} for place in range(30)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, _ = read(tmp_path)
    part = page[page.index("Answers side by side") : page.index("The worst mistakes")]
    assert [f"asked {place}<" in part for place in (0, SHOWN_TEXTS - 1, SHOWN_TEXTS)] == [True, True, False]


@pytest.mark.parametrize(
    ("gold", "answer", "scores", "words"),
    [
        ([[0, 3, "WHO"]], [{"label": "WHERE", "text": "Ada", "start": 0, "end": 3}], {}, ("WHO: Ada", "WHERE: Ada")),
        ([], [], {}, ("none", "none")),
        ([["Ada", 0]], {"text": "", "start": None, "probability": 0.5}, {}, ("Ada", "no answer")),
        ([], {"text": "came", "start": 4, "probability": 0.5}, {}, ("no answer", "came")),
        (1, "yes", {"yes": 0.6, "no": 0.4}, ("no", "yes")),
        (["a", "b"], "", {}, ("a, b", "an empty text")),
        (["a", "b"], ["a"], {"a": 0.5, "b": 0.5}, ("a, b", "a")),
        ([1.5, 2.0], {"stars": 2.25, "days": 1.0}, {}, ("1.500, 2.000", "stars 2.250 days 1.000")),
        ("late", "broken", {"late": 0.5}, ("late", "broken")),
    ],
)
def test_what_is_right_and_what_was_answered_is_told_in_words(
    gold: Any, answer: Any, scores: dict[str, float], words: tuple[str, str]
) -> None:
    row = {"text": "Ada came", "gold": gold, "answer": answer, "scores": scores}
    assert (right(row), answered(row)) == words


def test_a_run_without_mistakes_has_no_mistakes_to_show(tmp_path: Path) -> None:
    folder = single(tmp_path / "run", bare=True)
    right = [{**row, "answer": row["gold"], "correct": True} for row in answers(folder)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in right))
    assert "The worst mistakes" not in read(folder)[0]


def test_a_metric_that_is_not_defined_is_a_dash(tmp_path: Path) -> None:
    folder = numbers(tmp_path / "run")
    found = evaluation(folder)
    found["metrics"]["mae"] = dict.fromkeys(("value", "low", "high"))
    found["baselines"][0]["metrics"]["mae"] = dict.fromkeys(("value", "low", "high"))
    found["baselines"][0] |= {"difference": dict.fromkeys(("value", "low", "high")), "p_value": None}
    found["verdict"] = "mae is not defined on these 30 rows"
    (folder / "evaluation.json").write_text(json.dumps(found))
    page, seen = read(folder)
    assert seen.texts["b"] == ["–"]
    assert dict(table(page, "All metrics"))["mae"] == "–"
    assert table(page, "compared with")[0][1:] == ["–", "– to –", "–"]
    assert "None" not in seen.text()


@pytest.mark.parametrize("labels", [150, 201])
def test_many_labels_do_not_break_the_page(labels: int, tmp_path: Path) -> None:
    names = [f"label-{place:03}" for place in range(labels)]
    folder = single(tmp_path / "run", labels=names, rows=2 * labels, bare=True)
    page, seen = read(folder)
    is_inert(seen)
    assert len(table(page, "Each label")) == labels + 1
    assert f"{labels} labels, 1 to 1 rows each" in page
    assert len(page) < 4_000_000
    assert ('class="heat dense"' in page) == (labels <= MOST_LABELS_DRAWN)
    assert len(table(page, "Most often confused")) == 13


def test_a_row_may_be_very_long(tmp_path: Path) -> None:
    page, seen = read(single(tmp_path / "run", texts=["word " * 2000 + "x" * 5000], bare=True))
    is_inert(seen)
    assert "x" * 5000 in page
    assert max(len(data) for data in seen.texts["summary"]) < 300


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (count(None), "–"),
        (count(1234567), "1,234,567"),
        (share(0.1234), "12.3 %"),
        (share(None), "–"),
        (size(90_900_000), "90.9 MB"),
        (size(2.5e9), "2.50 GB"),
        (size(None), "–"),
        (duration(5.25), "5.2 s"),
        (duration(59.96), "1 min 0 s"),
        (duration(61), "1 min 1 s"),
        (duration(7260), "2 h 1 min"),
        (duration(None), "–"),
    ],
)
def test_numbers_read_well(found: str, said: str) -> None:
    assert found == said


def dumped(path: Path, profile: Path) -> str:
    """The page as a browser leaves it after two seconds of its own time."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-sync", "--virtual-time-budget=2000", f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, path.as_uri()], capture_output=True, text=True, timeout=60, check=True, encoding="utf-8"
    )
    return done.stdout


def test_nothing_runs_in_a_browser(hostile: Path, tmp_path: Path) -> None:
    """Also without the page's own ban of scripts, which would hide that a text had become one."""
    page, seen = once(hostile)
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page), encoding="utf-8")
    assert "Content-Security" not in bare.read_text(encoding="utf-8")
    for path in (hostile / "report.html", bare):
        live = Seen(dumped(path, tmp_path / "profile"))
        assert live.text("title") == seen.text("title")
        assert [" ".join(data.split()) for data in live.texts["h2"]] == SECTIONS
        is_inert(live)


FRAMES = """<!doctype html><meta charset="utf-8"><title>waiting</title><script>
const found = {{}};
function measure(frame) {{
  const inside = frame.contentDocument.documentElement;
  found[frame.width] = [inside.clientWidth, inside.scrollWidth];
  document.title = JSON.stringify(found);
}}</script>{frames}"""
FRAME = """<iframe style="border:0" width="{width}" height="900" onload="measure(this)" srcdoc="{page}"></iframe>"""


def test_nothing_is_wider_than_a_telephone(hostile: Path, tmp_path: Path) -> None:
    """In frames of that width, because a browser's own window cannot be made so narrow."""
    page, _ = once(hostile)
    frames = "".join(FRAME.format(width=width, page=escape(page)) for width in (320, 400))
    (tmp_path / "framed.html").write_text(FRAMES.format(frames=frames), encoding="utf-8")
    live = Seen(dumped(tmp_path / "framed.html", tmp_path / "profile"))
    found = json.loads(live.text("title"))
    assert found.keys() == {"320", "400"}
    for width, (inner, needed) in found.items():
        assert needed <= inner <= int(width)
