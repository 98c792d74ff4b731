"""Rows as the model sees them: plain text only, cut and counted, and kept under a key that covers what shapes them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from transformers import BertConfig, PreTrainedTokenizerBase

from tiny import CONFIGURATIONS, WORDS, model_folder
from tunesmith.batch import Encoded, Example, collate
from tunesmith.contracts import Codec, Corpus, Family, Ledger, Record, Task
from tunesmith.errors import BadRow
from tunesmith.prepare import encode
from tunesmith.prepare.corpus import read_corpus
from tunesmith.prepare.encode import cache_key, encode_corpus, lengths
from tunesmith.prepare.options import DataOptions
from tunesmith.select.foundation import open_foundation
from tunesmith.select.options import ModelOptions
from tunesmith.tasks import TASKS
from tunesmith.tasks.classification import Classification
from tunesmith.tasks.multi_task import MultiTask
from tunesmith.tasks.regression import Regression
from workshop import CPU, left
from workshop import bench as make_bench

ROWS = ("text,label", "the parcel is late,late", "thank you kind shop,thanks", "my order is late and broken,late",
        "good morning,thanks", "the lamp is late again,late", "a kettle,thanks")  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        return base / kind if (base / kind).exists() else model_folder(kind, base / kind)

    return folder


@pytest.fixture
def tokenizer_of(folders: Callable[[str], Path]) -> Callable[[str], PreTrainedTokenizerBase]:
    """A tokenizer of that kind of model, fresh from its files."""
    return lambda kind: open_foundation(ModelOptions(name=str(folders(kind))), Path()).tokenizer


@pytest.fixture
def tokenizer(tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tokenizer_of("bert")


class Counted(Classification):
    """A task that notes how many rows it was asked to encode."""

    calls: ClassVar[list[int]] = []

    def encode(self, records: Sequence[Record], codec: Codec, max_tokens: int) -> Sequence[Example]:
        self.calls.append(len(records))
        return super().encode(records, codec, max_tokens)


def codec(tokenizer: PreTrainedTokenizerBase) -> Codec:
    return Codec(tokenizer, Family.ENCODER, BertConfig())


@pytest.fixture
def calls() -> list[int]:
    Counted.calls.clear()
    return Counted.calls


def corpus(base: Path, lines: Sequence[str] = ROWS, *, task: Task | None = None, seed: int = 0, **data: Any) -> Corpus:
    (base / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = DataOptions(**{"train": "rows.csv", "validation": 0.2, **data})
    return read_corpus(options, task or Counted(), base=base, seed=seed)


def made(texts: Sequence[Any], task: Task | None = None) -> Corpus:
    """A corpus of these texts, or pairs of texts, as training rows."""
    records = [
        Record(n, "f", n + 1, dict(zip(("text", "text_b"), [text] if isinstance(text, str) else text, strict=False)),
               "xy"[n % 2])
        for n, text in enumerate(texts)
    ]  # fmt: skip
    learned = (task or Classification()).learn(
        [*records, replace(records[0], target="x"), replace(records[0], target="y")]
    )
    return Corpus(learned, {"train": records}, Ledger({"f": len(texts)}, {"train": len(texts)}), (), {}, "print")


def ids(texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_tokens: int = 64) -> list[list[int]]:
    rows = encode_corpus(made(texts), codec(tokenizer), max_tokens, cache=None, world=CPU)["train"]
    return [rows.columns["input_ids"][place].tolist() for place in range(len(texts))]


def assert_equal(one: dict[str, Encoded], other: dict[str, Encoded]) -> None:
    assert one.keys() == other.keys()
    for split, rows in one.items():
        assert rows.columns.keys() == other[split].columns.keys()
        pairs = [(rows.rows, other[split].rows), (rows.cut, other[split].cut)]
        for name, ragged in rows.columns.items():
            pairs += [(ragged.values, other[split].columns[name].values)]
            pairs += [(ragged.offsets, other[split].columns[name].offsets)]
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


def test_encoded_rows_are_read_from_the_cache_the_second_time(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, calls: list[int]
) -> None:
    made = corpus(tmp_path)
    plain = encode_corpus(made, codec(tokenizer), 6, cache=None, world=CPU)
    first = encode_corpus(made, codec(tokenizer), 6, cache=tmp_path / "kept", world=CPU)
    assert sorted(calls) == [1, 1, 5, 5]
    again = encode_corpus(corpus(tmp_path), codec(tokenizer), 6, cache=tmp_path / "kept", world=CPU)
    assert len(calls) == 4
    assert_equal(plain, first)
    assert_equal(first, again)
    assert first["train"].cut.sum() > 0
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_numbers_come_back_from_the_cache_to_the_bit(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    lines = ["text,score", *(f"the lamp {n},{n / 7}" for n in range(9))]
    made = corpus(tmp_path, lines, task=Regression())
    first, again = (encode_corpus(made, codec(tokenizer), 16, cache=tmp_path / "kept", world=CPU) for _ in range(2))
    assert first["train"].columns["labels"].values.dtype == np.float64
    assert_equal(first, again)
    assert_equal(first, encode_corpus(made, codec(tokenizer), 16, cache=None, world=CPU))


def test_the_key_does_not_depend_on_what_the_tokenizer_did_before(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    made = corpus(tmp_path)
    before = cache_key(made, codec(tokenizer), 6)
    tokenizer(["the parcel is late and broken", "again"], truncation=True, max_length=4, padding=True)
    assert cache_key(made, codec(tokenizer), 6) == before


def test_the_key_changes_with_everything_that_shapes_a_row(
    tmp_path: Path,
    tokenizer_of: Callable[[str], PreTrainedTokenizerBase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = tokenizer_of("bert")
    made = corpus(tmp_path)
    keys = {"first": cache_key(made, codec(tokenizer), 32)}

    def note(name: str, changed: Corpus, other: PreTrainedTokenizerBase | None = None, most: int = 32) -> None:
        keys[name] = cache_key(changed, codec(other or tokenizer), most)

    note("max_tokens", made, most=31)
    note("a text", corpus(tmp_path, [*ROWS[:-1], "a lamp,thanks"]))
    note("white space", corpus(tmp_path, [*ROWS[:-1], "a  kettle,thanks"]))
    note("a label", corpus(tmp_path, [*ROWS[:-1], "a kettle,late"]))
    note("the order", corpus(tmp_path, [ROWS[0], *reversed(ROWS[1:])]))
    note("the split", corpus(tmp_path, validation=0.4))
    note("the seed", corpus(tmp_path, seed=3))
    note("the order of labels", corpus(tmp_path, task=Counted(labels=("thanks", "late"))))
    note("an option of the task", corpus(tmp_path, task=Counted(balance="weights")))
    note("another task", corpus(tmp_path, task=Classification()))
    note("another tokenizer", made, tokenizer_of("distilbert"))
    cut_left = tokenizer_of("bert")
    cut_left.truncation_side = "left"
    note("the side that is cut", made, cut_left)
    more = tokenizer_of("bert")
    more.add_tokens(["kettle"])
    note("an added token", made, more)
    special = tokenizer_of("bert")
    special.add_special_tokens({"sep_token": "[CLS]"})
    note("a special token", made, special)
    fewer = tokenizer_of("bert")
    fewer.model_input_names = ["input_ids"]
    note("the columns", made, fewer)
    template = tokenizer_of("bert")
    template.chat_template = "{{ messages }}"
    note("the template", made, template)
    several = replace(made, task=MultiTask(tasks={"one": Counted(), "two": Classification()}))
    note("several tasks", several)
    monkeypatch.setattr(Counted, "version", 2)
    note("the task's version", made)
    note("the version of a part of the task", several)
    monkeypatch.undo()
    monkeypatch.setattr(Counted, "__module__", "elsewhere")
    note("the task's module", made)
    monkeypatch.undo()
    monkeypatch.setattr(encode, "version", lambda name: "99.0")
    note("the program's version", made)
    assert {a for a in keys for b in keys if a != b and keys[a] == keys[b]} == set()


def test_the_key_stays_when_only_unrelated_things_change(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    key = cache_key(corpus(tmp_path), codec(tokenizer), 32)
    assert cache_key(corpus(tmp_path, on_bad_row="skip", limit=100, cache=False), codec(tokenizer), 32) == key
    assert cache_key(corpus(tmp_path, max_tokens=9), codec(tokenizer), 32) == key
    (tmp_path / "elsewhere").mkdir()
    assert cache_key(corpus(tmp_path / "elsewhere"), codec(tokenizer), 32) == key


def test_other_rows_are_encoded_anew(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, calls: list[int]) -> None:
    encode_corpus(corpus(tmp_path), codec(tokenizer), 32, cache=tmp_path / "kept", world=CPU)
    changed = corpus(tmp_path, [*ROWS[:-1], "a kettle,late"])
    found = encode_corpus(changed, codec(tokenizer), 32, cache=tmp_path / "kept", world=CPU)
    assert len(calls) == 4
    assert_equal(found, encode_corpus(changed, codec(tokenizer), 32, cache=None, world=CPU))


def flip(folder: Path) -> None:
    content = bytearray((folder / "rows.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "rows.safetensors").write_bytes(content)


def shorten(folder: Path) -> None:
    content = (folder / "rows.safetensors").read_bytes()
    (folder / "rows.safetensors").write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def forget_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip, shorten, empty, forget_the_manifest])
def test_a_damaged_cache_is_made_again_and_not_trusted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, calls: list[int], damage: Callable[[Path], None]
) -> None:
    made = corpus(tmp_path)
    first = encode_corpus(made, codec(tokenizer), 32, cache=tmp_path / "kept", world=CPU)
    damage(next((tmp_path / "kept").iterdir()))
    again = encode_corpus(made, codec(tokenizer), 32, cache=tmp_path / "kept", world=CPU)
    assert len(calls) == 4
    assert_equal(first, again)
    encode_corpus(made, codec(tokenizer), 32, cache=tmp_path / "kept", world=CPU)
    assert len(calls) == 4


def test_rows_are_the_same_in_one_chunk_or_many(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(WORDS[: 1 + n % 9]) for n in range(25)]
    whole = encode_corpus(made(texts), codec(tokenizer), 8, cache=None, world=CPU)
    monkeypatch.setattr(encode, "CHUNK", 7)
    parts = encode_corpus(made(texts), codec(tokenizer), 8, cache=None, world=CPU)
    assert len(parts["train"]) == 25
    assert_equal(whole, parts)


def test_what_does_not_fit_is_cut_and_counted_exactly(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [" ".join(WORDS[:count]) for count in (2, 4, 5, 10)]  # a token a word, and [CLS] and [SEP]
    rows = encode_corpus(made(texts), codec(tokenizer), 6, cache=None, world=CPU)
    assert rows["train"].lengths.tolist() == [4, 6, 6, 6]
    assert rows["train"].cut.tolist() == [0, 0, 1, 6]
    found = lengths(rows)["train"]
    assert (found["cut_rows"], found["cut_tokens"]) == (2, 7)
    assert (found["min"], found["median"], found["max"]) == (4, 6.0, 6)
    assert sum(found["histogram"]["counts"]) == 4
    whole = ids([texts[3]], tokenizer)[0]
    assert ids([texts[3]], tokenizer, 6)[0] == [*whole[:5], whole[-1]]


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = (" ".join(WORDS[:9]), " ".join(WORDS[9:12]))
    task = Classification(text_b="text_b")
    rows = encode_corpus(made([pair, ("good", "morning")], task), codec(tokenizer), 11, cache=None, world=CPU)["train"]
    words = {word: tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    sep, start = tokenizer.sep_token_id, tokenizer.cls_token_id
    kept = [start, *(words[w] for w in WORDS[:5]), sep, *(words[w] for w in WORDS[9:12]), sep]
    assert rows.columns["input_ids"][0].tolist() == kept
    assert rows.columns["token_type_ids"][0].tolist() == [0] * 7 + [1] * 4
    assert rows.cut.tolist() == [4, 0]
    assert rows.columns["input_ids"][1].tolist() == [start, words["good"], sep, words["morning"], sep]


CONTROLS = {
    "bert": {"[CLS]": 1, "[SEP]": 1},
    "distilbert": {"[CLS]": 1, "[SEP]": 1},
    "roberta": {"<s>": 1, "</s>": 1},
    "bart": {"<s>": 1, "</s>": 1},
    "gpt2": {},
    "llama": {"<s>": 1},
    "t5": {"</s>": 1},
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
@pytest.mark.parametrize("glue", [" ", ""])
def test_text_that_spells_control_tokens_stays_text(
    kind: str, glue: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizer_of(kind)
    spelled = [token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
    numbers = {token: tokenizer.get_vocab()[token] for token in spelled}
    assert numbers
    texts = [glue.join(("parcel", token, "late")) for token in spelled]
    for most in (64, 60):
        for text, row in zip(texts, ids(texts, tokenizer, most), strict=True):
            held = {token: row.count(number) for token, number in numbers.items()}
            assert {token: count for token, count in held.items() if count} == CONTROLS[kind], text
            assert len(row) > 5
    longer = ids([" ".join(["late", *spelled] * 9)], tokenizer, 20)[0]
    assert len(longer) == 20
    held = {token: longer.count(number) for token, number in numbers.items()}
    assert {token: count for token, count in held.items() if count} == CONTROLS[kind]


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "llama", "t5"])
def test_spelled_control_tokens_can_be_read_back(
    kind: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizer_of(kind)
    text = "late " + " ".join(tokenizer.all_special_tokens) + " again"
    assert str(tokenizer.decode(ids([text], tokenizer)[0], skip_special_tokens=True)).strip() == text


@pytest.mark.parametrize("kind", [name for name in TASKS if name != "multi_task"])
def test_a_number_that_is_none_is_no_text_of_any_task(kind: str) -> None:
    """JSON as pandas writes it holds NaN where a cell is empty."""
    for specimen in TASKS.load(kind).specimens:
        task, row = TASKS.load(kind)(**specimen.options), specimen.rows[0]
        for column in task.inputs:
            if isinstance(row.get(column), str):
                with pytest.raises(BadRow, match="found nan, expected a text") as told:
                    task.read({**row, column: float("nan")})
                assert told.value.reason == "no_text"


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_side_of_padding_does_not_change_what_a_row_holds(
    kind: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    texts = [" ".join(WORDS[:count]) for count in (1, 12, 5)]
    found = {}
    for side in ("left", "right"):
        tokenizer = tokenizer_of(kind)
        tokenizer.padding_side = side
        found[side] = encode_corpus(made(texts), codec(tokenizer), 10, cache=None, world=CPU)
    assert_equal(found["left"], found["right"])
    assert found["left"]["train"].cut.tolist()[0::2] == [0, 0]
    assert found["left"]["train"].cut[1] > 0


def test_batches_padded_on_either_side_hold_the_same_tokens(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "bert", "bert", "classification", "full")
    rights, lefts = (collate(bench.data, range(4), padding) for padding in (bench.padding, left(bench.padding)))
    for batch in (rights, lefts):
        mask = batch.inputs["attention_mask"].bool()
        for place in range(4):
            expected = bench.data.columns["input_ids"][place].tolist()
            assert batch.inputs["input_ids"][place][mask[place]].tolist() == expected
    assert not np.array_equal(rights.inputs["input_ids"].numpy(), lefts.inputs["input_ids"].numpy())


def test_a_text_that_the_tokenizer_drops_still_has_a_token(
    tokenizer_of: Callable[[str], PreTrainedTokenizerBase],
) -> None:
    tokenizer = tokenizer_of("bert")
    tokenizer.backend_tokenizer.post_processor = None
    assert ids(["\u200b", "late"], tokenizer)[0] == [tokenizer.unk_token_id]
