#!/usr/bin/env python3
"""Time and peak memory of importing a synthetic model, and of exporting it again.

    tests/bench/import_bench.py --sluice build/sluice --gb 2 --folder /tmp/import_bench [--keep]

Makes a Mixtral-shaped model of random BF16 values in files of 1 GB (standard library only), runs `sluice import` and
`sluice export` on it, and prints for each: seconds, GB/s of the model, and the process's peak resident memory."""
import argparse
import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import time


def tensors(gb):
    hidden, width, vocab, layers = 1024, 3584, 32000, 0
    layer = 2 * 8 * 3 * hidden * width + 2 * (2 * hidden * hidden + 2 * hidden * 256 + 8 * hidden + 2 * hidden)
    layers = max(1, round((gb * 1e9 - 4 * vocab * hidden) / layer))
    config = dict(model_type="mixtral", architectures=["MixtralForCausalLM"], vocab_size=vocab, hidden_size=hidden,
                  intermediate_size=width, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=4,
                  head_dim=64, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=4096,
                  rms_norm_eps=1e-5, rope_theta=1e6, hidden_act="silu", tie_word_embeddings=False,
                  torch_dtype="bfloat16")
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden),
              "model.norm.weight": (hidden,)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes[p + "input_layernorm.weight"] = shapes[p + "post_attention_layernorm.weight"] = (hidden,)
        for letter, rows in (("q", 1024), ("k", 256), ("v", 256), ("o", 1024)):
            shapes[f"{p}self_attn.{letter}_proj.weight"] = (rows, hidden)
        shapes[p + "block_sparse_moe.gate.weight"] = (8, hidden)
        for e in range(8):
            for letter in ("w1", "w2", "w3"):
                shape = (hidden, width) if letter == "w2" else (width, hidden)
                shapes[f"{p}block_sparse_moe.experts.{e}.{letter}.weight"] = shape
    return config, shapes


def write_model(folder, gb):
    config, shapes = tensors(gb)
    (folder / "config.json").write_text(json.dumps(config))
    size = lambda shape: 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    files, total = [{}], 0
    for name, shape in sorted(shapes.items()):
        if files[-1] and sum(map(size, files[-1].values())) + size(shape) > 1e9:
            files.append({})
        files[-1][name] = shape
        total += size(shape)
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    # Exponents near 1: any bytes with bit 14 of each value clear are finite.
    noise = bytearray(os.urandom(1 << 24))
    noise[1::2] = bytes(b & 0xBF for b in noise[1::2])
    for i, part in enumerate(files):
        file = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        header, offset = {}, 0
        for name, shape in part.items():
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size(shape)]}
            offset += size(shape)
            index["weight_map"][name] = file
        text = json.dumps(header, separators=(",", ":")).encode()  # as the safetensors library writes it
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for at in range(0, offset, len(noise)):
                out.write(noise[:min(len(noise), offset - at)])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def measure(what, command, total):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.time() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # ru_maxrss is the largest child so far; children are this program's runs alone.
    print(f"{what:8} {total * 1e-9:6.2f} GB  {seconds:7.2f} s  {cpu:7.2f} s of CPU  {total * 1e-9 / seconds:6.2f} GB/s  "
          f"peak resident {after.ru_maxrss / 1024:8.1f} MiB", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("--gb", type=float, default=2)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    folder = pathlib.Path(args.folder)
    if folder.exists():
        sys.exit(f"{folder}: found something there, wanted a folder to make")
    source = folder / "source"
    source.mkdir(parents=True)
    total = write_model(source, args.gb)
    measure("import", [args.sluice, "import", "--from", source, "--to", folder / "run"], total)
    measure("export", [args.sluice, "export", "--from", folder / "run", "--to", folder / "out"], total)
    for path in source.iterdir():
        if path.name != "config.json":
            same = subprocess.run(["cmp", "-s", path, folder / "out" / path.name]).returncode == 0
            print(f"{path.name}: {'same bytes' if same else 'DIFFERS'}")
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
