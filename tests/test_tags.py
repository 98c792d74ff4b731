"""Tags, spans, tokens and windows: what is written can be read back to the character, and what is wrong is told."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tunesmith.batch import IGNORED
from tunesmith.errors import BadRow
from tunesmith.tasks.ner import NER
from tunesmith.tasks.span_rows import read_marks, read_spans, read_tags, read_tokens
from tunesmith.tasks.span_tokens import (
    joined,
    owner,
    pieces,
    spans_from_tokens,
    token_labels,
    windows,
    without_token,
)
from tunesmith.tasks.tags import (
    Scheme,
    Span,
    best_path,
    may_follow,
    spans_of,
    tag_names,
    tags_of,
    transitions,
)
from workshop import opened, records_of

UNITS = [
    "a",
    "B",
    " ",
    "\r\n",
    "🙂",
    "👩‍👩‍👧",
    "e\u0301",
    "é",
    "مر",
    "حبًا",
    "你",
    "好",
    "ไทย",
    "\u200d",
    "\u00a0",
    "\t",
    "|",
    "[",
]
"""Characters of one to several code points, and what is easily mistaken for a word's end or a mark."""
LABELS = ("PER", "B-2", "ไทย")
TEXTS = st.lists(st.sampled_from(UNITS), min_size=1, max_size=12).map("".join).filter(lambda text: bool(text.strip()))


@st.composite
def stretches(draw: st.DrawFn, length: int) -> list[Span]:
    """Spans that may touch but do not overlap, in `length` places."""
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    labels = draw(st.lists(st.sampled_from([None, *LABELS]), min_size=len(cuts), max_size=len(cuts)))
    return [Span(a, b, label) for (a, b), label in zip(itertools.pairwise(cuts), labels, strict=False) if label]


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, tuple[Span, ...]]:
    text = draw(TEXTS)
    return text, tuple(span for span in draw(stretches(len(text))) if text[span.start : span.end].strip())


@st.composite
def tokenized(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text cut into tokens anywhere, some of them in several that share its characters, between control tokens."""
    text = draw(TEXTS)
    cuts = sorted({0, len(text), *draw(st.sets(st.integers(0, len(text)), max_size=8))})
    offsets = [(0, 0)]
    for token in itertools.pairwise(cuts):
        offsets += [token] * draw(st.integers(1, 3))
    return text, [*offsets, (0, 0)]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        (Scheme.IOB2, "B-X I-X B-X O B-Y"),
        (Scheme.IOB1, "I-X I-X B-X O I-Y"),
        (Scheme.IOBES, "B-X E-X S-X O S-Y"),
        (Scheme.BILOU, "B-X L-X U-X O U-Y"),
    ],
)
def test_each_scheme_writes_and_reads_the_same_spans(scheme: Scheme, tags: str) -> None:
    spans = (Span(0, 2, "X"), Span(2, 3, "X"), Span(4, 5, "Y"))
    assert tags_of(spans, 5, scheme) == tags.split()
    assert spans_of(tags.split(), scheme) == spans


@settings(deadline=None)
@given(spans=stretches(9), scheme=st.sampled_from(Scheme))
def test_any_spans_are_read_back_from_their_tags(spans: list[Span], scheme: Scheme) -> None:
    tags = tags_of(spans, 9, scheme)
    assert spans_of(tags, scheme) == spans_of(tags, None) == tuple(spans)


@pytest.mark.parametrize(
    ("scheme", "tags", "field", "found"),
    [
        (Scheme.IOB2, "O I-X", "tags[1]", "'I-X' behind 'O'"),
        (Scheme.IOB2, "B-X I-Y", "tags[1]", "'I-Y' behind 'B-X'"),
        (Scheme.IOB2, "O E-X", "tags[1]", "'E-X' behind 'O'"),
        (Scheme.IOB1, "O B-X", "tags[1]", "'B-X' behind 'O'"),
        (Scheme.IOBES, "O E-X", "tags[1]", "'E-X' behind 'O'"),
        (Scheme.IOBES, "B-X O O", "tags[1]", "'O' behind 'B-X'"),
        (Scheme.IOBES, "B-X E-Y", "tags[1]", "'E-Y' behind 'B-X'"),
        (Scheme.IOBES, "S-X I-X", "tags[1]", "'I-X' behind 'S-X'"),
        (Scheme.BILOU, "O B-X", "tags[1]", "'B-X' at the end"),
        (Scheme.BILOU, "B-X E-X", "tags[1]", "'E-X' behind 'B-X'"),
    ],
)
def test_a_broken_rule_is_told_with_its_place(scheme: Scheme, tags: str, field: str, found: str) -> None:
    with pytest.raises(BadRow) as error:
        spans_of(tags.split(), scheme)
    assert (error.value.field, error.value.found, error.value.reason) == (field, found, "broken_tags")


@pytest.mark.parametrize("tag", ["PER", "b-PER", "X-PER", "O-PER", "B-", "", 3])
def test_what_is_no_tag_is_told_even_where_rules_are_not_held(tag: Any) -> None:
    with pytest.raises(BadRow) as error:
        spans_of(["O", tag], None, "slots")
    assert (error.value.field, error.value.reason) == ("slots[1]", "bad_tag")


def test_a_span_of_characters_that_have_no_token_is_told_from_one_that_ends_inside_one() -> None:
    spans = [Span(0, 1, "PER"), Span(1, 3, "PER"), Span(5, 6, "PER")]
    assert without_token(spans, [(0, 2), (3, 4)], "abc d\u200be") == (spans[2],)


def test_a_row_is_not_learned_from_without_one_of_its_spans(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["my", "\u200b", "lamp"], "tags": ["O", "B-THING", "B-THING"]},
        {"tokens": ["my", "\u200b", "lamp"], "tags": ["O", "O", "B-THING"]},
        {"tokens": ["\u200b"], "tags": ["B-THING"]},
    ]
    task = NER()
    records = records_of(task, rows)
    codec = opened(tmp_path, "bert", "AutoModelForTokenClassification").codec
    found = task.learn(records).encode(records, codec, 32)
    assert [example.refused for example in found] == ["span_without_token", "", "span_without_token"]
    asked = [replace(record, target=None) for record in records]
    assert not any(example.refused for example in task.learn(records).encode(asked, codec, 32))


@settings(deadline=None, max_examples=300)
@given(tags=st.lists(st.sampled_from(["O", "B", "I", *(f"{p}-{x}" for p in "BIES" for x in ("X", "A-B"))]), max_size=8))
def test_without_rules_tags_are_read_as_seqeval_reads_them(tags: list[str]) -> None:
    wanted = [(start, end + 1, label) for label, start, end in get_entities(tags)]
    assert list(spans_of(tags, None)) == wanted


def test_spans_that_overlap_have_no_tags() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        tags_of([Span(0, 2, "X"), Span(1, 3, "Y")], 3, Scheme.IOB2)


WANTED = ("Ann flew to 北京 .", (Span(0, 3, "PER"), Span(12, 14, "LOC")))


def test_rows_of_three_forms_hold_the_same_spans() -> None:
    words = {"tokens": ["Ann", "flew", "to", "北京", "."], "tags": ["B-PER", "O", "O", "B-LOC", "O"]}
    listed = {"text": WANTED[0], "spans": [[12, 14, "LOC"], {"start": 0, "end": 3, "label": "PER", "text": "Ann"}]}
    assert read_tags(words, "tokens", "tags", Scheme.IOB2) == WANTED
    assert read_spans(listed, "text", "spans") == WANTED
    assert read_marks({"text": "[[PER|Ann]] flew to [[LOC|北京]] ."}, "text") == WANTED


@settings(deadline=None)
@given(texts_with_spans())
def test_listed_spans_of_any_text_come_back_as_they_were(case: tuple[str, tuple[Span, ...]]) -> None:
    text, spans = case
    listed = [{**span._asdict(), "text": text[span.start : span.end]} for span in reversed(spans)]
    assert read_spans({"text": text, "spans": listed}, "text", "spans") == (text, spans)


@settings(deadline=None)
@given(texts_with_spans())
def test_marked_spans_of_any_text_come_back_as_they_were(case: tuple[str, tuple[Span, ...]]) -> None:
    text, spans = case[0].replace("[", "("), case[1]
    marked = text
    for start, end, label in reversed(spans):
        marked = f"{marked[:start]}[[{label}|{marked[start:end]}]]{marked[end:]}"
    assert read_marks({"text": marked}, "text") == (text, spans)


@settings(deadline=None)
@given(words=st.lists(TEXTS, min_size=1, max_size=6), data=st.data())
def test_the_words_of_a_span_are_the_ones_that_were_tagged(words: list[str], data: st.DataObject) -> None:
    spans = data.draw(stretches(len(words)))
    text, found = read_tags({"w": words, "t": tags_of(spans, len(words), Scheme.IOB2)}, "w", "t", Scheme.IOB2)
    assert text == " ".join(words)
    wanted = [(" ".join(words[start:end]), label) for start, end, label in spans]
    assert [(text[start:end], label) for start, end, label in found] == wanted


@pytest.mark.parametrize(
    ("spans", "field", "reason"),
    [
        ([[0, 3, "A"], [2, 4, "B"]], "spans", "overlap"),
        ([[0, 3, "A"], [0, 3, "A"]], "spans", "overlap"),
        ([[0, 3, "A"], [3, 3, "B"]], "spans[1]", "empty_span"),
        ([[3, 4, "A"]], "spans[0]", "empty_span"),
        ([[5, 2, "A"]], "spans[0]", "empty_span"),
        ([[4, 8, "A"]], "spans[0]", "outside_text"),
        ([[-3, 2, "A"]], "spans[0]", "outside_text"),
        ([{"start": 0, "end": 3, "label": "A", "text": "ann"}], "spans[0]", "text_differs"),
        ([{"start": 0, "end": 3}], "spans[0]", "no_label"),
        ([[0, 3, 7]], "spans[0]", "no_label"),
        ([[0, 3, " "]], "spans[0]", "no_label"),
        ([["0", 3, "A"]], "spans[0]", "bad_span"),
        ([[0, True, "A"]], "spans[0]", "bad_span"),
        ([[0, 3]], "spans[0]", "bad_span"),
        (["0-3"], "spans[0]", "bad_span"),
        ("0-3", "spans", "no_list"),
        (None, "spans", "no_list"),
    ],
)
def test_a_span_that_cannot_be_is_told_with_its_reason(spans: Any, field: str, reason: str) -> None:
    with pytest.raises(BadRow) as error:
        read_spans({"text": "Ann ran", "spans": spans}, "text", "spans")
    assert (error.value.field, error.value.reason) == (field, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("to [[LOC|Rome", "bad_mark"),
        ("[[PER|Ann [[LOC|Rome]]]]", "bad_mark"),
        ("[[ PER|Ann]]", "bad_mark"),
        ("[[|Ann]]", "no_label"),
        ("[[PER|]] ran", "empty_span"),
        ("[[PER| ]] ran", "empty_span"),
        ("  ", "empty_text"),
    ],
)
def test_a_mark_that_cannot_be_read_is_told(text: str, reason: str) -> None:
    with pytest.raises(BadRow) as error:
        read_marks({"text": text}, "text")
    assert error.value.reason == reason


def test_brackets_that_are_no_mark_stay_in_the_text() -> None:
    text = "a[[0]] b]] [[c [d|e]"
    assert read_marks({"text": text}, "text") == (text, ())


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "lengths_differ"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens[1]", "bad_token"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "tokens[1]", "bad_token"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens", "no_list"),
        ({"tokens": ["a"]}, "tags", "no_list"),
        ({"tokens": [], "tags": []}, "tokens", "empty_text"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-X"]}, "tags[1]", "broken_tags"),
    ],
)
def test_words_and_tags_that_do_not_fit_are_told(row: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(BadRow) as error:
        read_tags(row, "tokens", "tags", Scheme.IOB2)
    assert (error.value.field, error.value.reason) == (field, reason)


def test_tags_that_are_numbers_are_read_by_their_names() -> None:
    row = {"tokens": ["my", "red", "lamp"], "ner_tags": [0, 1, 2]}
    task = NER(tags="ner_tags", tag_names=("O", "B-THING", "I-THING"))
    assert task.read(row)[1] == (Span(3, 11, "THING"),)
    assert task.read({**row, "ner_tags": ["O", "O", "B-THING"]})[1] == (Span(7, 11, "THING"),)


@pytest.mark.parametrize(
    ("names", "tags", "told"),
    [
        (None, [0, 3, 0], r"field 'tags\[0\]': found 0, expected a tag; .*say their names in task\.tag_names"),
        (("O", "B-X"), [0, 2, 0], r"field 'tags\[1\]': found 2, expected 0 to 1, the numbers of task\.tag_names"),
        (("O", "B-X"), [0, -1, 0], "found -1, expected 0 to 1"),
        (("O", "B-X"), [0, True, 0], r"field 'tags\[1\]': found True"),
    ],
)
def test_numbers_that_name_no_tag_are_told(names: tuple[str, ...] | None, tags: list[Any], told: str) -> None:
    with pytest.raises(BadRow, match=told) as error:
        NER(tag_names=names).read({"tokens": ["my", "red", "lamp"], "tags": tags})
    assert error.value.reason == "bad_tag"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tag_names": ["O", "PER"]}, "'PER' is no tag"),
        ({"tag_names": ["O", "B-PER", "B-PER"]}, "each once"),
        ({"tag_names": []}, "each once"),
        ({"tag_names": ["O", "B-PER"], "text": "said"}, "tag_names: has no effect with text"),
    ],
)
def test_names_of_tags_that_cannot_be_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        NER.model_validate(options)


NAMES = tag_names(LABELS, Scheme.IOB2)


def byte_tokenizer(*, trim: bool, prefix: bool) -> Tokenizer:
    """Every byte a token."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """BERT's: lower case, without accents; letters of a, b, e; whatever else is in a word makes it unknown."""
    vocabulary = {piece: n for n, piece in enumerate(["[UNK]", "a", "b", "e", "##a", "##b", "##e", "[CLS]"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 7)])
    return tokenizer


def sentence_tokenizer() -> Tokenizer:
    """SentencePiece's form: blanks belong to the word behind them, texts are brought to NFKC."""
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.0), ("B", -1.0), ("好", -1.0)], 0, True)
    )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


TOKENIZERS = {
    "bytes": byte_tokenizer(trim=False, prefix=False),
    "bytes, blanks trimmed": byte_tokenizer(trim=True, prefix=True),
    "words": word_tokenizer(),
}


def test_blanks_are_no_part_of_a_piece_and_control_tokens_have_none() -> None:
    assert pieces([(0, 0), (0, 3), (3, 6), (6, 7), (7, 8), (0, 0)], "Ann  ran") == [
        (1, 0, 3),
        (2, 5, 6),
        (3, 6, 7),
        (4, 7, 8),
    ]


def test_tokens_that_share_characters_are_one_piece() -> None:
    assert pieces([(0, 1), (0, 1), (0, 1), (1, 2)], "🙂!") == [(0, 0, 1), (3, 1, 2)]
    assert pieces([(0, 1), (0, 2)], "你好") == [(0, 0, 2)]  # what a lone `▁` gives


def test_words_can_be_pieces_as_a_whole() -> None:
    offsets = [(0, 2), (2, 6), (6, 7), (7, 8), (9, 10), (10, 11)]
    assert pieces(offsets, "Berlin's 你好", whole=True) == [(0, 0, 6), (2, 6, 7), (3, 7, 8), (4, 9, 10), (5, 10, 11)]
    assert pieces([(0, 1), (2, 3), (3, 4)], "e\u0301ba", whole=True) == [(0, 0, 4)]


def test_a_label_stands_at_a_words_first_token_alone() -> None:
    offsets = [(0, 2), (2, 6), (7, 10), (10, 13)]
    ids, misaligned = token_labels(offsets, [Span(0, 13, "PER")], "Joanie Riders", NAMES, Scheme.IOB2, whole=True)
    assert not misaligned
    assert [NAMES[number] if number >= 0 else None for number in ids] == ["B-PER", None, "I-PER", None]


def test_an_accent_that_no_token_covers_belongs_to_its_letter() -> None:
    assert pieces([(0, 1), (2, 3)], "e\u0301b") == [(0, 0, 2), (1, 2, 3)]
    assert pieces([(0, 1), (1, 3)], "e\u0301b") == [(0, 0, 1), (1, 1, 3)]


def test_every_token_of_a_span_is_labelled_and_the_first_begins_it() -> None:
    offsets = [(0, 0), (0, 2), (2, 4), (4, 9), (9, 12), (0, 0)]  # Jo|an| Ride| ran
    ids, misaligned = token_labels(offsets, [Span(0, 9, "PER")], "Joan Ride ran", NAMES, Scheme.IOB2)
    assert [NAMES[i] if i >= 0 else None for i in ids] == [None, "B-PER", "I-PER", "I-PER", "O", None]
    assert ids[0] == IGNORED
    assert misaligned == ()


def test_a_span_that_ends_inside_a_token_is_extended_and_told() -> None:
    offsets = [(0, 6), (6, 10)]  # Berlin|ers's
    spans = [Span(0, 6, "PER"), Span(6, 8, "B-2")]
    ids, misaligned = token_labels(offsets, spans, "Berliner's", NAMES, Scheme.IOB2)
    assert misaligned == (Span(6, 8, "B-2"),)
    assert spans_from_tokens(ids, offsets, "Berliner's", NAMES) == (Span(0, 6, "PER"), Span(6, 10, "B-2"))


def test_of_two_spans_in_one_token_the_earlier_has_it_and_both_are_told() -> None:
    ids, misaligned = token_labels([(0, 4)], [Span(0, 2, "PER"), Span(2, 4, "B-2")], "ABCD", NAMES, Scheme.IOB2)
    assert [NAMES[i] for i in ids] == ["B-PER"]
    assert len(misaligned) == 2


def test_a_span_without_tokens_is_told() -> None:
    ids, misaligned = token_labels([(0, 1)], [Span(2, 3, "PER")], "a \u200d", NAMES, Scheme.IOB2)
    assert (ids, misaligned) == ([0], (Span(2, 3, "PER"),))


@settings(deadline=None, max_examples=300)
@given(case=tokenized(), scheme=st.sampled_from(Scheme), data=st.data())
def test_spans_that_end_where_tokens_end_come_back_exactly(
    case: tuple[str, list[tuple[int, int]]], scheme: Scheme, data: st.DataObject
) -> None:
    text, offsets = case
    found = pieces(offsets, text)
    chosen = data.draw(stretches(len(found)))
    spans = tuple(Span(found[a].start, found[b - 1].end, label) for a, b, label in chosen)
    names = tag_names(LABELS, scheme)
    ids, misaligned = token_labels(offsets, spans, text, names, scheme)
    assert misaligned == ()
    assert spans_from_tokens(ids, offsets, text, names) == spans


@settings(deadline=None)
@given(case=tokenized(), data=st.data())
def test_a_span_comes_back_as_it_was_or_is_told(case: tuple[str, list[tuple[int, int]]], data: st.DataObject) -> None:
    text, offsets = case
    spans = data.draw(stretches(len(text)))
    ids, misaligned = token_labels(offsets, spans, text, NAMES, Scheme.IOB2)
    back = spans_from_tokens(ids, offsets, text, NAMES)
    assert set(spans) - set(back) == set(misaligned)
    assert all(one.end <= other.start for one, other in itertools.pairwise(back))


@settings(deadline=None)
@given(
    words=st.lists(TEXTS.map(str.split).map("".join), min_size=1, max_size=6),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    data=st.data(),
)
def test_words_come_back_exactly_through_real_tokenizers(words: list[str], kind: str, data: st.DataObject) -> None:
    # a word that begins or ends with what the tokenizer drops (BERT: joiners) could not come back whole
    words = [f"a{word}".rstrip("\u200d") for word in words]
    text, places = read_tokens({"words": words}, "words")
    chosen = data.draw(stretches(len(words)))
    spans = tuple(Span(places[a][0], places[b - 1][1], label) for a, b, label in chosen)
    offsets = TOKENIZERS[kind].encode(text).offsets
    ids, misaligned = token_labels(offsets, spans, text, NAMES, Scheme.IOB2)
    assert misaligned == ()
    assert spans_from_tokens(ids, offsets, text, NAMES) == spans


def test_sentencepieces_lone_blank_takes_no_span_from_the_word_behind_it() -> None:
    text, spans = "你好 aB ﬁ", (Span(0, 2, "PER"), Span(3, 5, "PER"), Span(6, 7, "B-2"))
    offsets = sentence_tokenizer().encode(text).offsets
    ids, misaligned = token_labels(offsets, spans, text, NAMES, Scheme.IOB2)
    assert misaligned == ()
    assert spans_from_tokens(ids, offsets, text, NAMES) == spans


def test_windows_share_tokens_and_the_last_is_as_long_as_the_others() -> None:
    assert windows(10, 4, 1) == [(0, 4), (3, 7), (6, 10)]
    assert windows(9, 4, 1) == [(0, 4), (3, 7), (5, 9)]
    assert windows(3, 4, 1) == [(0, 3)]
    assert windows(0, 4, 1) == [(0, 0)]


def test_a_token_belongs_to_the_window_in_which_it_is_farthest_from_a_cut() -> None:
    assert owner(10, [(0, 6), (3, 9), (4, 10)]).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert owner(4, [(0, 4)]).tolist() == [0, 0, 0, 0]


def test_windows_that_leave_a_token_out_are_refused() -> None:
    with pytest.raises(ValueError, match="cover"):
        owner(5, [(0, 2), (3, 5)])
    with pytest.raises(ValueError, match="share"):
        windows(10, 4, 4)


SIZES = st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(deadline=None)
@given(length=st.integers(0, 60), sizes=SIZES)
def test_windows_cover_every_token_and_own_neighbouring_ones(length: int, sizes: tuple[int, int]) -> None:
    cut = windows(length, *sizes)
    assert all(end - start == min(sizes[0], length) for start, end in cut)
    assert all(one[1] - other[0] >= sizes[1] for one, other in itertools.pairwise(cut))
    owners = owner(length, cut)
    assert np.all(np.diff(owners) >= 0)
    assert all(cut[number][0] <= place < cut[number][1] for place, number in enumerate(owners))


@settings(deadline=None)
@given(spans=stretches(40), sizes=SIZES)
def test_no_span_is_lost_or_found_twice_wherever_windows_cut(spans: list[Span], sizes: tuple[int, int]) -> None:
    ids = np.array([NAMES.index(tag) for tag in tags_of(spans, 40, Scheme.IOB2)])
    scores = np.eye(len(NAMES))[ids]
    cut = windows(40, *sizes)
    path = best_path(joined([scores[start:end] for start, end in cut], cut, 40), transitions(NAMES, Scheme.IOB2))
    assert list(spans_of([NAMES[i] for i in path], Scheme.IOB2)) == spans


def test_where_windows_disagree_the_owner_is_believed() -> None:
    cut = [(0, 4), (2, 6)]
    assert joined([np.zeros((4, 1)), np.ones((4, 1))], cut, 6).ravel().tolist() == [0, 0, 0, 1, 1, 1]


def brute_force(scores: np.ndarray[Any, Any], names: Sequence[str], scheme: Scheme) -> float:
    def legal(path: tuple[int, ...]) -> bool:
        tags = ["O", *(names[i] for i in path), "O"]
        return all(may_follow(before, tag, scheme) for before, tag in itertools.pairwise(tags))

    paths = itertools.product(range(len(names)), repeat=len(scores))
    return max(sum(scores[place, i] for place, i in enumerate(path)) for path in paths if legal(path))


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_is_the_best_of_all_legal_ones(scheme: Scheme, seed: int) -> None:
    names = tag_names(("X", "Y")[: 1 + (scheme in (Scheme.IOB1, Scheme.IOB2))], scheme)
    scores = np.random.default_rng(seed).normal(size=(5, len(names)))
    path = best_path(scores, transitions(names, scheme))
    spans_of([names[i] for i in path], scheme)  # raises where a rule is broken
    assert scores[np.arange(5), path].sum() == pytest.approx(brute_force(scores, names, scheme), abs=1e-12)


def test_the_best_path_begins_a_span_before_it_goes_on() -> None:
    names = ("O", "B-X", "I-X")
    scores = np.log([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    assert scores.argmax(axis=1).tolist() == [0, 2]
    assert best_path(scores, transitions(names, Scheme.IOB2)).tolist() == [1, 2]


def test_no_tokens_have_an_empty_path_and_scores_that_are_no_numbers_are_refused() -> None:
    allowed = transitions(("O", "B-X", "I-X"), Scheme.IOB2)
    assert best_path(np.zeros((0, 3)), allowed).tolist() == []
    with pytest.raises(ValueError, match="not finite"):
        best_path(np.full((2, 3), np.nan), allowed)
