"""Each form in which a row holds a conversation gives the same messages; what cannot be learned from is refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from tunesmith.errors import BadRow
from tunesmith.tasks.messages import Columns, Form, detect_form, read_messages

ASKED = {"role": "user", "content": "late?"}
ANSWERED = {"role": "assistant", "content": "no", "weight": 1.0}
CALL = {"type": "function", "id": "call00000", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CALLED = {"role": "assistant", "content": "", "weight": 1.0, "tool_calls": [CALL]}
RETURNED = {"role": "tool", "content": "noon", "tool_call_id": "call00000", "name": "clock"}

ROWS: list[tuple[Form, Mapping[str, Any]]] = [
    (Form.MESSAGES, {"messages": [{"role": "user", "content": "late?"}, {"role": "assistant", "content": "no"}]}),
    (Form.MESSAGES, {"messages": '[{"role": "user", "content": "late?"}, {"role": "model", "content": "no"}]'}),
    (Form.MESSAGES, {"conversations": [{"role": "user", "content": "late?"}, {"role": "assistant", "content": "no"}]}),
    (Form.MESSAGES, {"messages": [{"role": "user", "content": [{"type": "text", "text": "la"}, "te?"]}, ANSWERED]}),
    (
        Form.SHAREGPT,
        {"conversations": [{"from": "human", "value": "late?"}, {"from": "gpt", "value": "no"}], "system": ""},
    ),
    (Form.PROMPT, {"prompt": "late?", "completion": "no"}),
    (Form.PROMPT, {"prompt": [ASKED], "completion": [{"role": "assistant", "content": "no"}]}),
    (Form.ALPACA, {"instruction": "late?", "input": "", "output": "no", "history": None}),
    (Form.PAIR, {"question": "late?", "answer": "no", "id": 3}),
    (Form.PAIR, {"prompt": "late?", "response": "no"}),
]


@pytest.mark.parametrize(("form", "row"), ROWS)
def test_every_form_gives_the_same_conversation(form: Form, row: Mapping[str, Any]) -> None:
    assert detect_form(row) is form
    assert read_messages(row).messages == (ASKED, ANSWERED)


@pytest.mark.parametrize(("form", "row"), ROWS)
def test_every_form_can_be_asked_without_its_reply(form: Form, row: Mapping[str, Any]) -> None:
    turns = row.get("messages", row.get("conversations"))
    if isinstance(turns, list):
        row = {name: turns[:1] if value is turns else value for name, value in row.items()}
    elif turns is None:
        row = {name: value for name, value in row.items() if name not in ("completion", "output", "answer", "response")}
    else:
        row = {"messages": '[{"role": "user", "content": "late?"}]'}
    assert read_messages(row, form=form, with_target=False).messages == (ASKED,)


def test_columns_of_any_name_can_be_named() -> None:
    row = {"ask": "late?", "reply": "no", "messages": "not these"}
    assert read_messages(row, Columns(source="ask", target="reply")).messages == (ASKED, ANSWERED)


def test_an_instruction_and_its_input_are_one_question_after_the_history() -> None:
    row = {"instruction": "sum", "input": "1 2", "output": "3", "history": [["late?", "no"]], "system": "be kind"}
    assert [message["content"] for message in read_messages(row).messages] == [
        "be kind",
        "late?",
        "no",
        "sum\n1 2",
        "3",
    ]


def test_a_default_system_turn_is_for_rows_that_have_none() -> None:
    own = {"messages": [{"role": "system", "content": "mine"}, ASKED, ANSWERED]}
    assert read_messages({"messages": [ASKED, ANSWERED]}, system="be kind").messages[0]["content"] == "be kind"
    assert read_messages(own, system="be kind").messages[0]["content"] == "mine"
    assert read_messages({"messages": [{"role": "system", "content": " "}, ASKED, ANSWERED]}).messages[0] == ASKED


@pytest.mark.parametrize("marks", [{"weight": 0}, {"train": False}, {"weight": 0.0, "train": True}])
def test_a_marked_reply_is_not_graded(marks: Mapping[str, Any]) -> None:
    made = read_messages({"messages": [ASKED, {**ANSWERED, "weight": None, **marks}, ASKED, ANSWERED]})
    assert [message["weight"] for message in made.messages if message["role"] == "assistant"] == [0.0, 1.0]


def test_of_a_prompt_of_messages_only_the_completion_is_graded() -> None:
    made = read_messages({"prompt": [ASKED, ANSWERED, ASKED], "completion": "no"})
    assert [message.get("weight") for message in made.messages] == [None, 0.0, None, 1.0]


def test_two_replies_in_a_row_stay_two() -> None:
    assert read_messages({"messages": [ASKED, ANSWERED, ANSWERED]}).messages == (ASKED, ANSWERED, ANSWERED)


@pytest.mark.parametrize(
    "turn",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}],
        },
        {"role": "assistant", "tool_calls": '[{"name": "clock", "arguments": {"zone": "UTC"}}]'},
        {"role": "assistant", "function_call": {"name": "clock", "arguments": '{"zone": "UTC"}'}},
        {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'},
        {"from": "gpt", "value": '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>'},
    ],
)
@pytest.mark.parametrize(
    "result",
    [{"role": "tool", "content": "noon"}, {"from": "observation", "value": "<tool_response>\nnoon\n</tool_response>"}],
)
def test_calls_of_every_form_are_read_alike_and_linked_to_their_results(turn: Any, result: Any) -> None:
    made = read_messages({"messages": [ASKED, turn, result, ANSWERED]})
    assert made.messages == (ASKED, CALLED, RETURNED, ANSWERED)


def test_results_are_linked_to_calls_by_id_or_else_in_order() -> None:
    calls = [{"id": name, "function": {"name": name, "arguments": {}}} for name in ("one", "two", "three")]
    results = [{"role": "tool", "content": "2", "tool_call_id": "two"}, *({"role": "tool", "content": n} for n in "13")]
    made = read_messages({"messages": [ASKED, {"role": "assistant", "tool_calls": calls}, *results, ANSWERED]})
    assert [message["name"] for message in made.messages if message["role"] == "tool"] == ["two", "one", "three"]


@pytest.mark.parametrize(
    "tools",
    [
        '[{"name": "clock"}]',
        [{"name": "clock"}],
        [{"type": "function", "function": {"name": "clock"}}],
        ['{"name": "clock"}'],
    ],
)
def test_tools_of_every_form_are_read_alike(tools: Any) -> None:
    made = read_messages({"messages": [ASKED, ANSWERED], "tools": tools})
    assert made.tools == ({"type": "function", "function": {"name": "clock"}},)


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nno"},
        {"role": "assistant", "content": "no", "reasoning_content": "hm"},
        {"role": "assistant", "content": "no", "thinking": "\nhm\n"},
    ],
)
def test_reasoning_is_told_from_the_reply(turn: Any) -> None:
    assert read_messages({"messages": [ASKED, turn]}).messages[1] == {**ANSWERED, "reasoning_content": "hm"}


def test_tags_of_reasoning_within_a_reply_are_part_of_it() -> None:
    text = "write <think> and </think>"
    assert read_messages({"messages": [ASKED, {**ANSWERED, "content": text}]}).messages[1]["content"] == text


SYSTEM = {"role": "system", "content": "be kind"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("messages", "reason", "words"),
    [
        ([{"role": "asistant", "content": "no"}], "unknown_role", "messages\\[0\\].role.*did you mean 'assistant'"),
        ([{"content": "no"}], "unknown_role", "found None"),
        ([SYSTEM, SYSTEM, ASKED, ANSWERED], "two_systems", "two system turns"),
        ([ASKED, SYSTEM, ANSWERED], "late_system", "messages\\[1\\]"),
        ([ASKED, {"role": "assistant", "content": " \n"}], "empty_reply", "messages\\[1\\].content"),
        ([ASKED, {"role": "assistant", "content": "<think>hm</think>"}], "empty_reply", "an empty reply"),
        ([ASKED], "no_reply", "no reply that is graded"),
        ([ASKED, {**ANSWERED, "weight": 0}], "no_reply", "no reply that is graded"),
        ([ASKED, ANSWERED, ASKED], "ends_without_reply", "ends on user"),
        ([ANSWERED], "no_prompt", "a turn that it replies to"),
        ([], "no_turns", "no turns"),
        ([SYSTEM], "no_turns", "no turns"),
        ([ASKED, {"role": "tool", "content": "noon"}, ANSWERED], "no_call", "the assistant's tool call before it"),
        ([ASKED, CALLED, {**RETURNED, "tool_call_id": "other"}, ANSWERED], "no_call", "'other'"),
        ([{"role": "user", "content": [IMAGE]}, ANSWERED], "no_text", "a part of type 'image_url'"),
        ([{"role": "user", "content": 3}, ANSWERED], "no_text", "found 3"),
        ([{"role": "user", "content": " "}, ANSWERED], "empty_text", "a turn of 'user' without text"),
        ([{"role": "user", "content": None}, ANSWERED], "empty_text", "messages\\[0\\].content"),
        ([{"role": "human", "text": "late?"}, ANSWERED], "empty_text", "'human' without text \\(keys 'role', 'text'"),
        ([ASKED, ANSWERED, {"from": "user", "value": []}, ANSWERED], "empty_text", "messages\\[2\\].content"),
        ([ASKED, {**ANSWERED, "weight": -1}], "bad_weight", "a number from 0"),
        ([ASKED, {**ANSWERED, "weight": float("nan")}], "bad_weight", "a number from 0"),
        ([ASKED, {**ANSWERED, "train": "no"}], "bad_weight", "true or false"),
        ([ASKED, {"role": "assistant", "tool_calls": "clock()"}], "bad_call", "a tool call in JSON"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "clock", "arguments": "UTC"}]}], "bad_call", "in JSON"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "clock", "arguments": [1]}]}], "bad_call", "an object"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"arguments": {}}]}], "bad_call", "a name"),
        (["late?", ANSWERED], "bad_turn", "a message with role and content"),
        ("late?", "bad_turn", "a list of messages"),
        ({"role": "user"}, "bad_turn", "a list of messages"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_place_and_reason(
    messages: Any, reason: str, words: str
) -> None:
    with pytest.raises(BadRow, match=words) as caught:
        read_messages({"messages": messages})
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "late?"}, "no_form"),
        ({}, "no_form"),
        ({"instruction": "", "output": "no"}, "empty_text"),
        ({"instruction": "late?", "output": ""}, "empty_reply"),
        ({"question": "late?", "answer": None}, "no_text"),
        ({"question": float("nan"), "answer": "no"}, "no_text"),
        ({"question": "late?", "answer": float("nan")}, "no_text"),
        ({"instruction": "late?", "input": float("nan"), "output": "no"}, "no_text"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "bad_turn"),
        ({"messages": [ASKED, ANSWERED], "tools": "clock"}, "bad_tools"),
        ({"messages": [ASKED, ANSWERED], "tools": [{"parameters": {}}]}, "bad_tools"),
        ({"messages": [ASKED, ANSWERED], "system": 3}, "no_text"),
    ],
)
def test_rows_of_any_form_that_lack_something_are_refused(row: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_messages(row)
    assert caught.value.reason == reason


def test_a_question_that_already_has_its_reply_is_not_asked() -> None:
    with pytest.raises(BadRow, match="ends on assistant"):
        read_messages({"messages": [ASKED, ANSWERED]}, with_target=False)
    assert read_messages({"messages": [ASKED, CALLED, RETURNED]}, with_target=False).messages[-1] == RETURNED


def test_a_row_stays_as_it_was() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]},
        ]
    }
    before = str(row)
    read_messages(row)
    assert str(row) == before
