"""A pre-trained model before its weights are read: its card, configuration and tokenizer."""

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
import yaml
from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.contracts import Card, Family, Foundation
from tunesmith.errors import UserError
from tunesmith.quiet import quiet
from tunesmith.select.options import ModelOptions
from tunesmith.select.quantise import require_quantising
from tunesmith.select.safety import check_folder, tensor_sizes, weight_files
from tunesmith.select.source import find_source

DEFAULT_CONTEXT = 512
"""Tokens for a model that sets no limit of its own (T5's relative positions)."""
OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "xmod",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta-prelayernorm",
    "ibert",
    "luke",
    "esm",
)
"""Model types that count positions from the padding token's id + 1, and so have fewer than they have embeddings."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
NO_LIMIT = 1_000_000
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def open_foundation(options: ModelOptions, base: Path) -> Foundation:
    """The model that `options` names, without its weights. Raises UserError for one that cannot be used safely."""
    if options.quantise is not None:
        require_quantising()
    source = find_source(options, base)
    check_folder(source.folder)
    files = weight_files(source.folder)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        except Exception as error:  # another's configuration may break anything
            raise UserError(
                str(source.folder / "config.json"),
                str(error).splitlines()[0] if str(error) else type(error).__name__,
                "is the model type known to this transformers?",
            ) from error
        tokenizer = _tokenizer(source.folder)
    size = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(size, int) and _exceeds(tokenizer, size):
        raise UserError(
            str(source.folder),
            f"its tokenizer has {max(tokenizer.get_vocab().values()) + 1} tokens and the model embeds {size}",
            "is this the model's own tokenizer?",
        )
    grown = _grow(tokenizer, options.new_tokens)
    licence, languages = _read_me(source.folder / "README.md")
    card = Card(
        name=options.name if not (base / options.name).is_dir() else source.portable_name,
        revision=source.revision,
        family=family_of(config),
        model_type=config.model_type,
        parameters=sum(sum(tensor_sizes(path).values()) for path in files),
        context_tokens=context_tokens(config, tokenizer),
        vocabulary=len(tokenizer),
        licence=licence,
        languages=languages,
        weights_sha256=_digest(files),
    )
    return Foundation(source.folder, source.portable_name, card, config, tokenizer, grown, options.quantise)


def _grow(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Adds words to the tokenizer; of each new token those that stood for the word before.

    Raises UserError for a word that is a token already, and for one that the tokenizer changes before it is cut.
    """
    before = {}
    for word in words:
        ids = tuple(tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if len(ids) < 2 and tokenizer.unk_token_id not in ids:
            raise UserError("model.new_tokens", f"{word!r} is a token already", "leave it out")
        before[word] = ids
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    vocabulary = tokenizer.get_vocab()
    return {vocabulary[word]: ids for word, ids in before.items()}


def family_of(config: PretrainedConfig) -> Family:
    """How the model is built, from its configuration. Raises UserError when it is no language model."""
    kind = type(config)
    if config.is_encoder_decoder:
        return Family.ENCODER_DECODER
    masked = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING
    causal = kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if masked and not getattr(config, "is_decoder", False):  # not every configuration has the switch
        return Family.ENCODER
    if causal:
        return Family.DECODER
    raise UserError(
        "model", f"{config.model_type} is not a text model that can be tuned here", "choose a language model"
    )


def context_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest row, in tokens, that the model has positions for."""
    text = config.get_text_config()
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < NO_LIMIT else []
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        if key in text.to_dict() and isinstance(value := text.to_dict()[key], int) and value > 0:
            offset = (text.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
            limits.append(value - offset)
    return min(limits, default=DEFAULT_CONTEXT)


def supported(foundation: Foundation, auto_class: str) -> type[transformers.PreTrainedModel]:
    """The model class with the head that `auto_class` stands for. Raises UserError when the model has none."""
    mapping = mapping_of(auto_class)
    if type(foundation.config) not in mapping:
        raise UserError(
            "task",
            f"{foundation.card.model_type} models have no {auto_class.removeprefix('AutoModelFor')} head",
            "choose another model or task",
        )
    found: type[transformers.PreTrainedModel] = mapping[type(foundation.config)]
    return found


def mapping_of(auto_class: str) -> Mapping[type, Any]:
    """The model class with this Auto class's head, by the class of the configuration."""
    found: Mapping[type, Any] = getattr(transformers, f"MODEL_{_words(auto_class)}_MAPPING")
    return found


def _words(auto_class: str) -> str:
    """An Auto class as `transformers` spells it in the names of its mappings."""
    if auto_class == "AutoModelForSeq2SeqLM":
        return "FOR_SEQ_TO_SEQ_CAUSAL_LM"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", auto_class.removeprefix("AutoModel")).upper()


def fit_tokenizer(foundation: Foundation, auto_class: str) -> None:
    """Makes the tokenizer give just the columns that the model with this head takes."""
    accepted = inspect.signature(supported(foundation, auto_class).forward).parameters
    tokenizer = foundation.tokenizer
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in accepted]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(str(folder), "holds no tokenizer", f"one of {', '.join(TOKENIZER_FILES)} is needed")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError, ImportError) as error:
        raise UserError(
            str(folder),
            f"its tokenizer cannot be read ({str(error).splitlines()[0]})",
            "are the tokenizer's files there?",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(str(folder), "has only a slow tokenizer", "convert it to a tokenizer.json")
    if tokenizer.pad_token_id is None:
        stand_in = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        if stand_in is None:
            raise UserError(
                str(folder), "its tokenizer has no token to pad with", "set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = stand_in
    _keep_texts_apart(tokenizer)
    return tokenizer


def _keep_texts_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    """Cuts what a text spells like a control token, where it would become one (a Unigram model's likeliest piece).

    What shall be read as a control token never gets here: such are taken out before a text is cut.
    """
    control = tokenizer.all_special_tokens
    read = tokenizer(control, add_special_tokens=False, split_special_tokens=True)["input_ids"] if control else []
    if {number for ids in read for number in ids} & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}:
        backend = tokenizer.backend_tokenizer
        spelled = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in control)
        whole = [backend.pre_tokenizer] if backend.pre_tokenizer is not None else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*whole, pre_tokenizers.Split(Regex(spelled), "isolated")])


def _exceeds(tokenizer: PreTrainedTokenizerBase, size: int) -> bool:
    """Whether texts can become tokens beyond the first `size`. Control tokens that nothing writes may lie there."""
    beyond = {number for number in tokenizer.get_vocab().values() if number >= size}
    if not beyond:
        return False
    roles = {getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    unwritten = set(tokenizer.all_special_ids) - roles - set(tokenizer("")["input_ids"])
    return not beyond <= unwritten


def _read_me(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Licence and languages from the YAML head of a model card."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.match(r"---[ \t]*\n(.*?)\n---", text.removeprefix("\ufeff"), re.DOTALL)
    try:  # every value as text: YAML takes `no`, the code of Norwegian, for a truth value
        head = yaml.load(found[1], Loader=yaml.BaseLoader) if found else {}  # noqa: S506  # makes texts only
    except (yaml.YAMLError, ValueError):  # a date that no calendar has
        head = {}
    if not isinstance(head, dict):
        return None, ()
    languages = head.get("language") or []
    languages = languages if isinstance(languages, list) else (languages,)
    licence = head.get("license")
    named = None if licence in ("", "null", "~", None) else str(licence)
    return named, tuple(str(language) for language in languages)


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
