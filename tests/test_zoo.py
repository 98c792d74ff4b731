"""Each family opens, loads under every head it has, pads, generates and packs as the rest of the house relies on."""

import copy
import functools
import hashlib
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tiny import DECODERS, ZOO, model_folder
from tunesmith.batch import REPLY, Column, Example, collate, encoded, padding_for
from tunesmith.contracts import Family, Foundation
from tunesmith.errors import UserError
from tunesmith.quiet import quiet
from tunesmith.select.foundation import OFFSET_POSITIONS, context_tokens, open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions
from zoo_tokenizers import TEXTS

LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
CLASSIFIES = {"AutoModelForSequenceClassification", "AutoModelForTokenClassification"}
ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta-v3", "modernbert", "mbert", "xlm-r", "minilm")
UNDERSTANDING = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
HEADS = {
    Family.ENCODER: (*UNDERSTANDING, "MaskedLM"),
    Family.DECODER: (*UNDERSTANDING[:3], "CausalLM"),
    Family.ENCODER_DECODER: (*UNDERSTANDING[:3], "MaskedLM", "Seq2SeqLM"),
}
WITHOUT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gemma", "gemma2", "phi", "phi3", "deepseek-v3"), ("QuestionAnswering",)),
    "deepseek-v2": ("TokenClassification", "QuestionAnswering"),
    **dict.fromkeys(("t5", "mt5", "flan"), ("MaskedLM",)),
    **dict.fromkeys(("bart", "mbart", "mbart50"), ("TokenClassification",)),
    **dict.fromkeys(("m2m100", "nllb", "pegasus"), (*UNDERSTANDING, "MaskedLM")),
}
"""Heads that `transformers` does not have for a kind."""
GENERATES = {Family.DECODER: "AutoModelForCausalLM", Family.ENCODER_DECODER: "AutoModelForSeq2SeqLM"}
LIMITED = {
    *("bert", "roberta", "distilbert", "electra", "mbert", "xlm-r", "minilm"),
    *("gpt2", "bart", "mbart", "mbart50", "pegasus"),
}
"""Kinds with a table of positions: a row that is too long for it cannot be computed."""
PACKS = {kind: kind not in ("falcon", "falcon-rw", "bloom") for kind in DECODERS}
"""Whether positions that start anew keep rows apart. Falcon's mask and BLOOM's are made without positions."""
EXACT = {"sdpa": 1e-10, "eager": 1e-6}
"""What rounding makes of it in float64; eager attention takes its softmax in float32 even there."""
EAGER_ONLY = ("gemma2", "bloom")
PACKINGS = [(kind, way) for kind in DECODERS for way in ("eager", "sdpa") if way == "eager" or kind not in EAGER_ONLY]
LOSSLESS = (
    *("modernbert", "gpt-neox", "codellama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3"),
    *("deepseek-v2", "deepseek-v3", "falcon", "falcon-rw", "bloom"),
)
"""Kinds whose tokens hold any text, byte by byte where need be."""
ROWS = ([60, 61, 62, 63, 64, 65, 66, 67, 68], [70, 71, 72, 73, 74])


def family(kind: str) -> Family:
    if kind in DECODERS:
        return Family.DECODER
    return Family.ENCODER if kind in ENCODERS else Family.ENCODER_DECODER


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@functools.cache
def opened(root: Path, kind: str) -> Foundation:
    folder = model_folder(kind, root / kind)
    return open_foundation(ModelOptions(name=str(folder)), Path())


def loaded(foundation: Foundation, head: str, **options: Any) -> Any:
    more = LABELS if head in CLASSIFIES else {}
    return load_model(foundation, head, more, seed=1, **{"dropout": 0.0, **options})


def speaker(root: Path, kind: str) -> Any:
    """The foundation, and its model that gives a score to each token."""
    foundation = opened(root, kind)
    head = GENERATES.get(foundation.family, "AutoModelForMaskedLM")
    return foundation, loaded(foundation, head).model.eval()


@pytest.mark.parametrize("kind", ZOO)
def test_a_kind_is_tiny_and_opens_as_its_family(kind: str, root: Path) -> None:
    foundation = opened(root, kind)
    assert foundation.family is family(kind)
    assert foundation.card.parameters < 100_000
    assert foundation.card.vocabulary <= 600
    assert foundation.card.context_tokens == 64
    assert (root / kind / "generation_config.json").is_file() == (kind not in (*ENCODERS, "t5", "bart"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What another process builds."""
    folder = tmp_path_factory.mktemp("elsewhere")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import tiny\n"
        "for kind in tiny.ZOO: tiny.model_folder(kind, Path(sys.argv[2]) / kind)"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    return {kind: digests(folder / kind) for kind in ZOO}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ZOO)
def test_a_kind_is_the_same_bytes_in_another_process(
    kind: str, root: Path, elsewhere: dict[str, dict[str, str]]
) -> None:
    opened(root, kind)
    assert digests(root / kind) == elsewhere[kind]


def heads(kind: str) -> list[str]:
    return [f"AutoModelFor{head}" for head in HEADS[family(kind)] if head not in WITHOUT.get(kind, ())]


@pytest.mark.parametrize(("kind", "head"), [(kind, head) for kind in ZOO for head in heads(kind)])
def test_a_head_loads_computes_and_is_read_again_by_transformers_alone(
    kind: str, head: str, root: Path, tmp_path: Path
) -> None:
    foundation = opened(root, kind)
    found = loaded(foundation, head)
    model = found.model.eval()
    outputs = scores(model, foundation, head)
    assert all(values.isfinite().all() for values in outputs)

    beside = [parameter for name in found.head for parameter in model.get_submodule(name).parameters()]
    assert sum(p.numel() for p in beside) < model.num_parameters() / 4, "the head holds what was pre-trained"

    model.save_pretrained(tmp_path)
    with quiet():
        again = getattr(transformers, head).from_pretrained(tmp_path).eval()
    for values, other in zip(outputs, scores(again, foundation, head), strict=True):
        assert torch.allclose(values, other, rtol=0, atol=1e-6)  # a processor may round by where in memory weights lie


def scores(model: Any, foundation: Foundation, head: str) -> list[torch.Tensor]:
    """The scores that a model gives for a text, or for three as choices."""
    found = foundation.tokenizer(["red lamp", "blue kettle", "my order"], padding=True, return_tensors="pt")
    if head == "AutoModelForMultipleChoice":
        found = {name: column[None] for name, column in found.items()}
    if head == "AutoModelForSeq2SeqLM":
        found = {**found, "decoder_input_ids": found["input_ids"]}
    taken = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        given = model(**{name: column for name, column in found.items() if name in taken})
    return [given[name] for name in ("logits", "start_logits", "end_logits") if name in given]


def test_a_decoder_without_its_embeddings_in_the_file_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"do not fit its config.*model.decoder.embed_tokens"):
        loaded(opened(root, "bart"), "AutoModelForCausalLM")


@pytest.mark.parametrize(
    ("kind", "key"), [("t5", "num_layers"), ("flan", "num_decoder_layers"), ("llama", "num_hidden_layers")]
)
@pytest.mark.parametrize("head", ["own", "AutoModelForQuestionAnswering"])
def test_a_missing_layer_is_noticed_wherever_a_class_keeps_its_layers(
    kind: str, key: str, head: str, tmp_path: Path
) -> None:
    folder = model_folder(kind, tmp_path / "model")
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**whole, key: 3}))
    foundation = open_foundation(ModelOptions(name=str(folder)), Path())
    with pytest.raises(UserError, match="do not fit its config"):
        loaded(foundation, GENERATES[foundation.family] if head == "own" else head)


@pytest.mark.parametrize("kind", ["mt5", "flan"])
def test_a_vocabulary_head_of_its_own_is_kept(kind: str, root: Path) -> None:
    model = speaker(root, kind)[1]
    assert not torch.equal(model.lm_head.weight, model.shared.weight)


def test_without_dropout_no_layer_is_left_out(root: Path) -> None:
    model = loaded(opened(root, "m2m100"), "AutoModelForSeq2SeqLM", dropout=0.0).model.train()
    assert {model.config.encoder_layerdrop, model.config.decoder_layerdrop} == {0.0}
    model = loaded(opened(root, "m2m100"), "AutoModelForSeq2SeqLM", dropout=0.5).model
    assert {model.config.encoder_layerdrop, model.config.decoder_layerdrop} == {0.05}


@pytest.mark.parametrize("kind", ZOO)
def test_a_row_as_long_as_the_context_can_be_computed(kind: str, root: Path) -> None:
    foundation, model = speaker(root, kind)
    tokenizer = copy.copy(foundation.tokenizer)
    tokenizer.model_max_length = int(1e30)
    longest = context_tokens(foundation.config, tokenizer)
    assert longest == (512 if kind in ("t5", "mt5") else 64)
    reply = {REPLY: torch.tensor([[5, 6]])} if foundation.family is Family.ENCODER_DECODER else {}
    row = 60 + torch.arange(longest + 1)[None] % 50
    with torch.inference_mode():
        assert model(input_ids=row[:, :-1], **reply).logits.isfinite().all()
        if reply:
            assert model(input_ids=row[:, :2], **{REPLY: row[:, :-1]}).logits.isfinite().all()
        if kind in LIMITED:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=row, **reply)


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
NEEDED: dict[str, dict[str, Any]] = {
    "luke": {"entity_vocab_size": 9, "entity_emb_size": 8},
    "longformer": {"attention_window": 4},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


@pytest.mark.parametrize("model_type", OFFSET_POSITIONS)
def test_positions_are_counted_from_the_padding_token(model_type: str, root: Path) -> None:
    config = AutoConfig.for_model(
        model_type, vocab_size=99, max_position_embeddings=66, pad_token_id=1, **SIZES, **NEEDED.get(model_type, {})
    )
    model = AutoModel.from_config(config).eval()
    longest = context_tokens(config, opened(root, "deberta-v3").tokenizer)
    row = torch.full((1, longest + 1), 7)
    with torch.inference_mode():
        assert model(input_ids=row[:, :-1]).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=row)


def batch_of(foundation: Foundation, rows: Any, side: Any) -> dict[str, torch.Tensor]:
    """The model's arguments for the rows of token ids, as the house makes them."""
    pad = foundation.tokenizer.pad_token_id
    columns = {REPLY: Column(pad, "reply")} if foundation.family is Family.ENCODER_DECODER else {}
    padding = padding_for(columns, pad, side=side, positions=foundation.family is Family.DECODER)
    replies = {REPLY: [5, 6, 7]} if columns else {}
    examples = [Example(place, {"input_ids": row, **replies}) for place, row in enumerate(rows)]
    return collate(encoded(examples), range(len(rows)), padding).inputs


@pytest.mark.parametrize(("kind", "side"), [*((kind, "right") for kind in ZOO), *((kind, "left") for kind in DECODERS)])
def test_a_row_in_a_batch_is_the_row_alone(kind: str, side: str, root: Path) -> None:
    foundation, model = speaker(root, kind)
    both = batch_of(foundation, ROWS, side)
    with torch.inference_mode():
        alone = model(**batch_of(foundation, ROWS[1:], side)).logits[0]
        padded = model(**both).logits[1]
        blind = model(**{**both, "attention_mask": torch.ones_like(both["attention_mask"])}).logits[1]
    kept = slice(-len(alone), None) if side == "left" else slice(len(alone))
    assert (padded[kept] - alone).abs().max() < 1e-5
    if side == "left" or foundation.family is not Family.DECODER:
        assert (blind[kept] - alone).abs().max() > 1e-3, "the mask makes no difference, so nothing is shown"


@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind not in ENCODERS])
def test_greedy_replies_do_not_depend_on_padding(kind: str, root: Path) -> None:
    foundation, model = speaker(root, kind)
    side = "left" if foundation.family is Family.DECODER else "right"
    made = []
    for rows in (ROWS, ROWS[1:]):
        inputs = batch_of(foundation, rows, side)
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode(), quiet():
            made.append(model.generate(**asked, max_new_tokens=6, min_new_tokens=6, do_sample=False)[-1, -6:])
    assert torch.equal(*made)


@pytest.mark.parametrize(("kind", "target"), [("mbart50", "de_DE"), ("m2m100", "__de__"), ("nllb", "deu_Latn")])
def test_a_forced_language_begins_the_reply(kind: str, target: str, root: Path) -> None:
    foundation, model = speaker(root, kind)
    token = foundation.tokenizer.convert_tokens_to_ids(target)
    with torch.inference_mode(), quiet():
        made = model.generate(torch.tensor(ROWS[1:]), forced_bos_token_id=token, max_new_tokens=3)
    assert made[0, :2].tolist() == [model.config.decoder_start_token_id, token]


@pytest.mark.parametrize(
    ("kind", "before", "behind"),
    [
        ("mbart", [], ["</s>", "de_DE"]),
        ("mbart50", ["de_DE"], ["</s>"]),
        ("nllb", ["deu_Latn"], ["</s>"]),
    ],
)
def test_the_language_of_a_text_is_set_by_an_attribute(
    kind: str, before: list[str], behind: list[str], tmp_path: Path
) -> None:
    folder = model_folder(kind, tmp_path / "model")
    tokenizer: Any = open_foundation(ModelOptions(name=str(folder)), Path()).tokenizer
    tokenizer.src_lang = tokenizer.tgt_lang
    assert tokenizer("red lamp").tokens() == [*before, "▁red", "▁lamp", *behind]


def packing_gap(root: Path, kind: str, way: str, *, cache: bool) -> float:
    """The largest difference that standing in one line makes to the logits of two rows."""
    opened(root, kind)
    experts = {"experts_implementation": "eager"} if "deepseek" in kind else {}  # the others know no float64
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            root / kind, dtype=torch.float64, attn_implementation=way, **experts
        ).eval()
    line = 60 + torch.arange(60)[None] * 7 % 100
    rows = (line[:, :39], line[:, 39:])
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    with torch.inference_mode():
        packed = model(input_ids=line, position_ids=positions, use_cache=cache).logits
        alone = torch.cat([model(input_ids=row, use_cache=cache).logits for row in rows], dim=1)
    return float((packed - alone).abs().max())


@pytest.mark.parametrize(("kind", "way"), PACKINGS)
def test_positions_that_start_anew_keep_packed_rows_apart(kind: str, way: str, root: Path) -> None:
    gap = packing_gap(root, kind, way, cache=False)
    limit = max(
        EXACT[way], 1e-7 if kind == "deepseek-v2" else 0
    )  # it turns by angles in float32 whatever the weights are
    assert gap < limit if PACKS[kind] else gap > 1e-2


def test_packed_rows_meet_where_a_cache_is_kept(root: Path) -> None:
    assert packing_gap(root, "llama", "sdpa", cache=True) > 1e-2


@pytest.mark.parametrize("kind", ZOO)
def test_a_text_never_becomes_a_control_token(kind: str, root: Path) -> None:
    tokenizer = opened(root, kind).tokenizer
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        texts = [token, f"red {token} lamp", f"red{token}{token}lamp"]
        for ids in tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
            assert not control & set(ids)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_any_text_comes_back_from_its_tokens(kind: str, root: Path) -> None:
    tokenizer = opened(root, kind).tokenizer
    text = "The Parcel is späet\r\n\tnow, 🙂  طلب 订单 {red}!"
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_a_token_that_the_model_does_not_embed_may_be_there_if_no_text_becomes_it(root: Path, tmp_path: Path) -> None:
    tokenizer = opened(root, "codellama").tokenizer
    embedded = opened(root, "codellama").config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<FILL_ME>") == embedded
    assert max(tokenizer(["def <FILL_ME> end"], split_special_tokens=True)["input_ids"][0]) < embedded
    assert max(tokenizer.convert_tokens_to_ids(["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"])) < embedded

    folder = model_folder("codellama", tmp_path / "model")
    added = open_foundation(ModelOptions(name=str(folder)), Path()).tokenizer
    added.add_tokens(["kettle-lamp"])
    added.save_pretrained(folder)
    with pytest.raises(UserError, match="the model embeds"):
        open_foundation(ModelOptions(name=str(folder)), Path())


def test_a_gap_between_token_numbers_does_not_hide_that_the_last_are_not_embedded(tmp_path: Path) -> None:
    folder = model_folder("gpt-neox", tmp_path / "model")
    whole = json.loads((folder / "tokenizer.json").read_text())
    *_, last = whole["model"]["vocab"]
    whole["model"]["vocab"][last] += 1
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="the model embeds"):
        open_foundation(ModelOptions(name=str(folder)), Path())


def test_a_sentencepiece_file_is_tokenizer_enough(tmp_path: Path) -> None:
    """DeBERTa-v3's repository holds no other."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="it reads such files")
    folder = model_folder("deberta-v3", tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    control = {"pad_id": 0, "pad_piece": "[PAD]", "bos_id": 1, "bos_piece": "[CLS]", "eos_id": 2, "eos_piece": "[SEP]"}
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=60, hard_vocab_limit=False, num_threads=1,
        unk_id=3, unk_piece="[UNK]", user_defined_symbols=["[MASK]"], minloglevel=2, **control,
    )  # fmt: skip
    (folder / "spm.model").write_bytes(written.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    tokenizer: Any = open_foundation(ModelOptions(name=str(folder)), Path()).tokenizer
    assert tokenizer("red lamp").tokens() == ["[CLS]", "▁red", "▁lamp", "[SEP]"]
