"""What a base in few bits costs and saves: LoRA over MiniLM as it is, in nf4 and in int8.

python benchmarks/bits.py [--rounds N]

The same steps over the same made-up rows, the three sides alternating. Printed are the bytes of the weights of blocks,
the time of a step in proportion to the base as it is (median and range over rounds), in float32 and under bfloat16,
and how far hidden states are from the base's (relative, before tuning).
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from _bench import table
from peft import LoraConfig, get_peft_model

from tunesmith.quiet import quiet
from tunesmith.select.foundation import open_foundation
from tunesmith.select.load import load_model
from tunesmith.select.options import ModelOptions

ROWS, TOKENS, STEPS = 8, 32, 2
SIDES = (None, "nf4", "int8")


def model_of(bits: str | None) -> Any:
    foundation = open_foundation(ModelOptions(name="builtin:minilm", quantise=bits), Path())
    return load_model(foundation, "AutoModelForSequenceClassification", {"num_labels": 3}, seed=1, dropout=0.0).model


def seconds(model: Any, batch: torch.Tensor, low: bool) -> float:
    """Of a few steps forward and backward."""
    began = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = model(input_ids=batch).logits.float().square().mean()
        loss.backward()
        model.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    batch = torch.randint(1000, 20000, (ROWS, TOKENS))
    sizes, states, tuned = {}, {}, {}
    for bits in SIDES:
        model = model_of(bits).eval()
        blocks = model.base_model.encoder.layer
        sizes[bits] = sum(p.nbytes for p in blocks.parameters() if p.ndim == 2)
        with torch.inference_mode():
            states[bits] = model.base_model(input_ids=batch).last_hidden_state
        with quiet():
            tuned[bits] = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear")).train()
    taken: dict[tuple[str | None, bool], list[float]] = {}
    for number in range(rounds + 1):
        for low in (False, True):
            for bits in SIDES:
                found = seconds(tuned[bits], batch, low)
                if number:  # the first round warms up
                    taken.setdefault((bits, low), []).append(found)
    rows = []
    for bits in SIDES:
        gap = float((states[bits] - states[None]).norm() / states[None].norm())
        shown = []
        for low in (False, True):
            ratios = [a / b for a, b in zip(taken[bits, low], taken[None, low], strict=True)]
            shown.append(f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
        rows.append((bits or "as it is", f"{sizes[bits] / 1e6:.1f} MB", *shown, f"{gap:.3f}"))
    table(("base", "weights of blocks", "step, float32", "step, bfloat16", "hidden states differ by"), rows)


if __name__ == "__main__":
    main()
