"""Windows of a text with a question before each, and where in them the answer begins and ends."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tunesmith.contracts import Codec, Family

HIDDEN, CONTEXT, NOTHING = 0, 1, 2
"""What a token can be: not to be pointed at, part of the text, or the one that stands for no answer."""

Columns = dict[str, list[int]]


def windows(codec: Codec, question: str, context: str, size: int, stride: int) -> tuple[list[Columns], int]:
    """The windows of a text, and how many tokens of the question did not fit; none where nothing of the text fits.

    size: tokens of a window; the question has at most half of them, and leaves room for a token of the text. stride:
    tokens that neighbours share. Of each window: the tokenizer's columns; `pointed`, what each token can be; `first`
    and `last`, which characters of the text it covers.
    """
    tokenizer = codec.tokenizer
    asked = f"{question}\n" if codec.family is Family.DECODER else question
    room = size - int(tokenizer.num_special_tokens_to_add(pair=True))
    most = min(size // 2, room - 1)
    if most < 1:
        return [], 0
    asked, used, cut = _beginning(tokenizer, asked, most)
    found = tokenizer(
        asked, context, truncation="only_second", max_length=size, stride=max(0, min(stride, (room - used) // 2)),
        return_overflowing_tokens=True, return_offsets_mapping=True, return_attention_mask=False,
        split_special_tokens=True, verbose=False,
    )  # fmt: skip
    made = []
    for place, encoding in enumerate(found.encodings):
        columns = {name: list(found[name][place]) for name in ("input_ids", "token_type_ids") if name in found}
        made.append(columns | _pointers(encoding.sequence_ids, found["offset_mapping"][place], context))
    return made, cut


def marked(made: Sequence[Columns], answers: Sequence[tuple[str, int]], longest: int) -> tuple[list[Columns], str]:
    """`starts` and `ends` of each window, with 1 at the answer's first and last token, or at the token that stands for
    none where the window lacks it, and nowhere where it holds a part of it only: such a window is not graded.

    answers: texts with their places, the first of which that can be learned is taken. longest: most tokens that one
    may have. Where none can be learned there are no marks, and the second says why: no window holds it, it has too many
    tokens, or the tokenizer drops its characters.
    """
    if not answers:
        return [_marks(columns, []) for columns in made], ""
    reasons = []
    for text, begin in answers:
        inside = [_inside(columns, begin, begin + len(text)) for columns in made]
        edges = [
            (columns["first"][held[0]], columns["last"][held[-1]]) if held else None
            for columns, held in zip(made, inside, strict=True)
        ]
        found = [edge for edge in edges if edge is not None]
        whole = (min(first for first, _ in found), max(last for _, last in found)) if found else None
        if whole is None:
            reasons.append("answer_without_token")
        elif whole not in edges:
            reasons.append("answer_longer_than_window")
        elif len(inside[edges.index(whole)]) > longest:
            reasons.append("answer_longer_than_task.longest")
        else:
            return [
                _marks(columns, held, graded=edge in (None, whole))
                for columns, held, edge in zip(made, inside, edges, strict=True)
            ], ""
    return [], reasons[0]


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> tuple[str, int, int]:
    """The start of a text that has at most so many tokens, how many it has, and how many more the text had."""
    total, kept = 0, most
    while True:
        found = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        used = len(found["input_ids"])
        total = max(total, used)
        if used <= most:
            return text, used, total - used
        text = text[: found["offset_mapping"][kept - 1][1]] if kept else ""
        kept -= 1  # what is left may have more tokens by itself than it had as a beginning


def _inside(columns: Columns, begin: int, end: int) -> list[int]:
    """The tokens of a window that hold some of the characters [begin, end) of the text."""
    return [
        at
        for at, (first, last) in enumerate(zip(columns["first"], columns["last"], strict=True))
        if columns["pointed"][at] == CONTEXT and first < end and last > begin
    ]


def _marks(columns: Columns, held: Sequence[int], *, graded: bool = True) -> Columns:
    """Marks at the first and the last token of those held, or at the token for none; none where it is not graded."""
    pointed = columns["pointed"]
    starts, ends = [0] * len(pointed), [0] * len(pointed)
    if graded:
        nothing = pointed.index(NOTHING)
        starts[held[0] if held else nothing] = ends[held[-1] if held else nothing] = 1
    return {"starts": starts, "ends": ends}


def _pointers(sequences: Sequence[int | None], offsets: Sequence[tuple[int, int]], context: str) -> Columns:
    """What each token is and which characters of the text it covers, without white space at its edges."""
    first, last, pointed = [], [], []
    for sequence, (start, end) in zip(sequences, offsets, strict=True):
        while sequence == 1 and start < end and context[start].isspace():
            start += 1
        real = sequence == 1 and end > start
        first.append(start if real else -1)
        last.append(end if real else -1)
        pointed.append(CONTEXT if real else HIDDEN)
    pointed[0] = NOTHING
    return {"first": first, "last": last, "pointed": pointed}
