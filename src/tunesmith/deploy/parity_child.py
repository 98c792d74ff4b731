"""Run in a fresh process: loads an artefact with `transformers` and `peft` alone and computes outputs of token ids."""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(work: Path) -> None:
    """Reads request.json and inputs.safetensors in `work`, writes outputs.safetensors there."""
    request = json.loads((work / "request.json").read_text())
    auto = getattr(transformers, request["auto_class"])
    if request["kind"] == "adapter":
        from peft import PeftModel

        config = transformers.AutoConfig.from_pretrained(request["artifact"])
        base = auto.from_pretrained(request["base"], config=config, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, request["artifact"])
    else:
        model = auto.from_pretrained(request["artifact"], dtype=torch.float32)
    model.eval()
    inputs = load_file(work / "inputs.safetensors")
    batches: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in inputs.items():
        number, _, name = path.partition("/")
        batches.setdefault(number, {})[name] = tensor
    with torch.inference_mode():
        outputs = {number: model(**batch).logits.contiguous() for number, batch in batches.items()}
    assert "tunesmith" not in sys.modules
    save_file(outputs, work / "outputs.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
