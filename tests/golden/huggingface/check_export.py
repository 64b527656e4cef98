#!/usr/bin/env python3
"""Loads an export in transformers and compares its logits and log-probabilities with `sluice score`.

    sluice export --from runs/laptop --to /tmp/laptop-hf --dtype fp32
    tests/golden/huggingface/check_export.py --sluice build/sluice --checkpoint runs/laptop --export /tmp/laptop-hf

Needs torch, transformers and safetensors (make_goldens.py says which versions). transformers computes in FP32; give
`--precision BF16` when the checkpoint computes in BF16, whose logits are compared with a wider bound. Exit code 1 when a
bound does not hold."""
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--export", required=True)
    parser.add_argument("--precision", default="FP32", choices=BOUND)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--lines", type=int, default=4)
    args = parser.parse_args()
    config = json.loads((pathlib.Path(args.export) / "config.json").read_text())
    ids = torch.randint(config["vocab_size"], (args.lines, args.tokens), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        logits_file = f"{folder}/logits.safetensors"
        lines = "".join(json.dumps({"ids": row}) + "\n" for row in ids.tolist())
        out = subprocess.run([args.sluice, "score", "--checkpoint", args.checkpoint, "--logits", logits_file, "--json"],
                             input=lines, capture_output=True, text=True, check=True).stdout
        ours = load_file(logits_file)
    model = AutoModelForCausalLM.from_pretrained(args.export, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False).logits
    worst, worst_logprob = 0.0, 0.0
    for i, line in enumerate(out.splitlines()):
        rows = ours[f"logits.{i}"].shape[0]
        worst = max(worst, (ours[f"logits.{i}"] - theirs[i, :rows]).abs().max().item())
        logprobs = theirs[i, :-1].log_softmax(-1).gather(-1, ids[i, 1:, None])[:, 0]
        worst_logprob = max(worst_logprob, (torch.tensor(json.loads(line)["logprobs"]) - logprobs).abs().max().item())
    share = worst / theirs.abs().max().item()
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters())} parameters")
    print(f"largest |d logit| {worst:.3e}, {share:.3e} of the largest logit {theirs.abs().max().item():.3f}")
    print(f"largest |d log-probability| {worst_logprob:.3e}")
    sys.exit(share > BOUND[args.precision])


if __name__ == "__main__":
    main()
