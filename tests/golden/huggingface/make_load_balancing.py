#!/usr/bin/env python3
"""transformers' load-balancing loss of the golden cases whose families train with it, in the same environment as
make_goldens.py: its value on the two golden lines, and the norm of the gradient of (main loss + the loss, coefficient
1) for each gate. Writes load_balancing.json."""
import json
import pathlib
import tempfile

import torch
import torch.nn.functional as F
import zstandard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent


def main():
    out = {}
    for case in ("mixtral", "olmoe", "qwen3_moe", "qwen3_moe_yarn"):
        with tempfile.TemporaryDirectory() as folder:
            for file in (HERE / case).iterdir():
                data = file.read_bytes()
                packed = file.suffix == ".zst"
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data) if packed else data
                pathlib.Path(folder, file.stem if packed else file.name).write_bytes(data)
            tokens = load_file(pathlib.Path(folder, "golden.safetensors"))["tokens"].long()
            pathlib.Path(folder, "golden.safetensors").unlink()
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                         experts_implementation="eager")
        model.train(False)
        result = model(tokens[:, :-1], output_router_logits=True)
        loss = F.cross_entropy(result.logits.flatten(0, 1), tokens[:, 1:].flatten())
        (loss + result.aux_loss).backward()
        gates = {name.removesuffix(".mlp.gate.weight"): parameter.grad.norm().item()
                 for name, parameter in model.named_parameters() if name.endswith(".mlp.gate.weight")}
        out[case] = {"loss": result.aux_loss.item(), "gate_gradient_norms": gates}
    (HERE / "load_balancing.json").write_text(json.dumps(out, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
