#!/usr/bin/env python3
"""Loads an export in transformers and compares its logits and log-probabilities with `sluice score`.

    sluice export --from runs/laptop --to /tmp/laptop-hf --dtype fp32
    tests/golden/huggingface/check_export.py --sluice build/sluice --checkpoint runs/laptop --export /tmp/laptop-hf

With `--adapter DIR` (of `sluice adapter`) peft puts that on top of the export, which is then the base model's.
Needs torch, transformers and safetensors (make_goldens.py says which versions), and peft for an adapter. transformers
computes in FP32. Exit code 1 when a bound does not hold.

Give `--precision BF16` when the checkpoint computes in BF16. Its roundings flip choices of experts that are almost tied,
and a token that goes through another expert has other logits: so the bound holds for tokens whose experts are the same
in every layer. How many are not is printed, beside how many transformers itself flips when it computes in BF16; more
than twice as many are too many. (transformers 5 is needed, whose gates return what they chose.)"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

BOUND = {"FP32": 2e-5, "BF16": 5e-2}  # of the largest logit
TRANSFORMERS = int(transformers.__version__.split(".")[0])


def load(export, adapter=None, dtype=torch.float32):
    """The model of an export, with an adapter of PEFT's on top if one is given."""
    model = AutoModelForCausalLM.from_pretrained(export, dtype=dtype, attn_implementation="eager")
    if adapter is not None:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def score(sluice, checkpoint, ids):
    """What `sluice score` gives for lines of ids: logits and log-probabilities by line, experts by layer and line."""
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(json.dumps({"ids": row}) + "\n" for row in ids.tolist())
        out = subprocess.run([sluice, "score", "--checkpoint", checkpoint, "--logits", f"{folder}/logits", "--routes",
                              f"{folder}/routes", "--json"], input=text, capture_output=True, text=True, check=True)
        logits, routes = load_file(f"{folder}/logits"), load_file(f"{folder}/routes")
    by_layer = {}
    for name, experts in routes.items():
        _, line, layer = name.split(".")
        by_layer.setdefault(int(layer), {})[int(line)] = experts.long()
    logprobs = [torch.tensor(json.loads(line)["logprobs"]) for line in out.stdout.splitlines()]
    return [logits[f"logits.{i}"] for i in range(len(ids))], logprobs, by_layer


def forward(model, ids):
    """(logits, {layer: experts of each line and token, ascending}) of transformers."""
    routes = {}

    def hear(layer):
        def hook(_module, _inputs, outputs):
            routes[layer] = outputs[2].view(*ids.shape, -1).sort(-1).values
        return hook

    # (A gate is a module of its own kind from transformers 5 on.)
    gates = [(name.split("layers.")[1].split(".")[0], gate) for name, gate in model.named_modules()
             if type(gate).__name__.lower().endswith("topkrouter")]
    hooks = [gate.register_forward_hook(hear(int(layer))) for layer, gate in gates] if TRANSFORMERS >= 5 else []
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    for hook in hooks:
        hook.remove()
    return logits, routes


def random_ids(model, lines, tokens):
    return torch.randint(model.config.vocab_size, (lines, tokens), generator=torch.Generator().manual_seed(1))


def compare(sluice, checkpoint, model, lines=4, tokens=48):
    """(largest |d logit|, largest |logit|, largest |d log-probability|) of a model and `sluice score`."""
    ids = random_ids(model, lines, tokens)
    ours, our_logprobs, _ = score(sluice, checkpoint, ids)
    theirs, _ = forward(model, ids)
    worst, worst_logprob = 0.0, 0.0
    for i, logits in enumerate(ours):
        worst = max(worst, (logits - theirs[i, :len(logits)]).abs().max().item())
        logprobs = theirs[i, :-1].log_softmax(-1).gather(-1, ids[i, 1:, None])[:, 0]
        worst_logprob = max(worst_logprob, (our_logprobs[i] - logprobs).abs().max().item())
    return worst, theirs.abs().max().item(), worst_logprob


def split_by_routes(name, logits, routes, theirs, their_routes):
    """Prints how one computation differs from transformers' in FP32; returns (flipped tokens, worst of the others)."""
    largest = theirs.abs().max().item()
    flipped, same, other, tokens = 0, 0.0, 0.0, 0
    for i, line in enumerate(logits):
        difference = (line - theirs[i, :len(line)]).abs().amax(-1) / largest
        flips = torch.zeros(len(line), dtype=torch.bool)
        for layer, experts in their_routes.items():
            flips |= (routes[layer][i][:len(line)] != experts[i, :len(line)]).any(-1)
        flipped, tokens = flipped + int(flips.sum()), tokens + len(line)
        same = max(same, difference[~flips].max().item() if (~flips).any() else 0.0)
        other = max(other, difference[flips].max().item() if flips.any() else 0.0)
    print(f"{name}: {flipped} of {tokens} tokens go through another expert; largest |d logit| of the others {same:.3e}, "
          f"of these {other:.3e} of the largest logit {largest:.3f}")
    return flipped, same


def holds_in_bf16(args, model):
    ids = random_ids(model, args.lines, args.tokens)
    theirs, their_routes = forward(model, ids)
    if not their_routes:
        sys.exit("check_export: --precision BF16: found no gates that say what they chose, wanted transformers 5")
    rounded, rounded_routes = forward(load(args.export, args.adapter, torch.bfloat16), ids)
    yardstick, _ = split_by_routes("transformers in BF16", rounded, rounded_routes, theirs, their_routes)
    logits, _, routes = score(args.sluice, args.checkpoint, ids)
    if sorted(routes) != sorted(their_routes):
        sys.exit(f"check_export: found gates in layers {sorted(routes)}, wanted {sorted(their_routes)}")
    flipped, worst = split_by_routes("sluice", logits, routes, theirs, their_routes)
    return worst <= BOUND["BF16"] and flipped <= 2 * yardstick


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
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters())} parameters")
    if args.precision == "BF16":
        sys.exit(not holds_in_bf16(args, model))
    worst, largest, worst_logprob = compare(args.sluice, args.checkpoint, model, args.lines, args.tokens)
    print(f"largest |d logit| {worst:.3e}, {worst / largest:.3e} of the largest logit {largest:.3f}")
    print(f"largest |d log-probability| {worst_logprob:.3e}")
    sys.exit(worst > BOUND["FP32"] * largest)


if __name__ == "__main__":
    main()
