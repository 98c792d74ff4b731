"""Run in a fresh process: loads an artefact with `transformers` and `peft` alone and computes outputs of token ids."""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

NAMES = ("logits", "start_logits", "end_logits")
WIDE = 1024
"""Outputs with more values a token, such as those over a vocabulary, are compared at one token of each row."""


def reduced(output: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is compared of a model's output, by name: [B, ...] in float32 on the CPU.

    Of outputs over a large vocabulary that is each row's last token, with the log of the sum over the vocabulary at
    every real one.
    """
    found: dict[str, Tensor] = {}
    for name in NAMES:
        if getattr(output, name, None) is None:
            continue
        values = getattr(output, name).detach().to(torch.float32).cpu()
        if values.ndim == 3 and "decoder_input_ids" not in inputs:
            values = values[:, -inputs["input_ids"].shape[1] :]  # PEFT gives an output for each vector of a prompt too
        if values.ndim == 3 and values.shape[-1] > WIDE:
            mask = inputs["attention_mask"].cpu() if "decoder_input_ids" not in inputs else torch.ones(values.shape[:2])
            last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(dim=1)
            found[f"{name}_spread"] = torch.logsumexp(values, dim=-1) * mask
            values = values[torch.arange(len(values)), last]
        found[name] = values.contiguous()
    return found


def main(work: Path) -> None:
    """Reads request.json and inputs.safetensors in `work`, writes outputs.safetensors there."""
    request = json.loads((work / "request.json").read_text())
    auto = getattr(transformers, request["auto_class"])
    if request["kind"] == "adapter":
        if request["quantised"] is None:  # PEFT would import it, which takes longer than all else here
            sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
        from peft import PeftModel

        load = PeftModel.from_pretrained
        if request["loader"]:
            module, _, name = request["loader"].partition(":")
            load = getattr(importlib.import_module(module), name)
        config = transformers.AutoConfig.from_pretrained(request["artifact"])
        given = {"config": config, "dtype": torch.float32, "ignore_mismatched_sizes": True}  # heads are the adapter's
        if request["quantised"] is not None:
            given["quantization_config"] = transformers.BitsAndBytesConfig(**request["quantised"])  # type: ignore[no-untyped-call]
        base = auto.from_pretrained(request["base"], **given)
        if request["vocabulary"] is not None:
            base.resize_token_embeddings(request["vocabulary"], mean_resizing=False)
        model = load(base, request["artifact"])
    else:
        model = auto.from_pretrained(request["artifact"], dtype=torch.float32)
    model.eval()
    inputs = load_file(work / "inputs.safetensors")
    batches: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in inputs.items():
        number, _, name = path.partition("/")
        batches.setdefault(number, {})[name] = tensor
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for number, batch in batches.items():
            outputs |= {f"{number}/{name}": values for name, values in reduced(model(**batch), batch).items()}
    assert "tunesmith" not in sys.modules or (request["kind"] == "adapter" and request["loader"])
    save_file(outputs, work / "outputs.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
