#!/usr/bin/env python3
"""Loads an export in transformers and compares its logits and log-probabilities with `sluice score`.

    sluice export --from runs/laptop --to /tmp/laptop-hf --dtype fp32
    tests/golden/huggingface/check_export.py --sluice build/sluice --checkpoint runs/laptop --export /tmp/laptop-hf

With `--adapter DIR` (of `sluice adapter`) peft puts that on top of the export, which is then the base model's.
Needs torch, transformers and safetensors (make_goldens.py says which versions), and peft for an adapter. transformers
computes in FP32; give `--precision BF16` when the checkpoint computes in BF16, whose logits are compared with a wider
bound. Exit code 1 when a bound does not hold."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

BOUND = {"FP32": 2e-5, "BF16": 5e-2}  # of the largest logit


def load(export, adapter=None):
    """The model of an export in FP32, with an adapter of PEFT's on top if one is given."""
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, attn_implementation="eager")
    if adapter is not None:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def compare(sluice, checkpoint, model, lines=4, tokens=48):
    """(largest |d logit|, largest |logit|, largest |d log-probability|) of a model and `sluice score`."""
    ids = torch.randint(model.config.vocab_size, (lines, tokens), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        logits_file = f"{folder}/logits.safetensors"
        text = "".join(json.dumps({"ids": row}) + "\n" for row in ids.tolist())
        out = subprocess.run([sluice, "score", "--checkpoint", checkpoint, "--logits", logits_file, "--json"],
                             input=text, capture_output=True, text=True, check=True).stdout
        ours = load_file(logits_file)
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False).logits
    worst, worst_logprob = 0.0, 0.0
    for i, line in enumerate(out.splitlines()):
        rows = ours[f"logits.{i}"].shape[0]
        worst = max(worst, (ours[f"logits.{i}"] - theirs[i, :rows]).abs().max().item())
        logprobs = theirs[i, :-1].log_softmax(-1).gather(-1, ids[i, 1:, None])[:, 0]
        worst_logprob = max(worst_logprob, (torch.tensor(json.loads(line)["logprobs"]) - logprobs).abs().max().item())
    return worst, theirs.abs().max().item(), worst_logprob


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--export", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--precision", default="FP32", choices=BOUND)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--lines", type=int, default=4)
    args = parser.parse_args()
    model = load(args.export, args.adapter)
    worst, largest, worst_logprob = compare(args.sluice, args.checkpoint, model, args.lines, args.tokens)
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters())} parameters")
    print(f"largest |d logit| {worst:.3e}, {worst / largest:.3e} of the largest logit {largest:.3f}")
    print(f"largest |d log-probability| {worst_logprob:.3e}")
    sys.exit(worst > BOUND[args.precision] * largest)


if __name__ == "__main__":
    main()
