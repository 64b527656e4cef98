#!/usr/bin/env python3
"""Trains each small model of this folder with Sluice and compares what comes out with transformers and PEFT.

    /tmp/venv/bin/pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 zstandard==0.25.0 peft==0.21.2
    /tmp/venv/bin/python tests/golden/huggingface/check_families.py [--sluice build/sluice] [CASE...]

Each case is imported, trained (all weights; then again with LoRA) and exported, in FP32. A line a case: the largest
difference of a logit between `sluice score` of the run and transformers on the export, as a share of the largest
logit, for the trained run, for the LoRA run merged on export, and for the import with the LoRA run's adapter loaded by
PEFT; last, how far the LoRA run moved the logits. Bound: 2e-5. Exit code 1 when one does not hold.

PEFT's column needs transformers 4 (4.57.1 with peft 0.17.1 was tried), whose experts are modules that adapters can be
put on. transformers 5 has one parameter for all experts; whether PEFT 0.21.2 puts adapters on it is not known.
transformers 4 in turn leaves out DeepSeek-V2's mscale, so those cases lose their YaRN here, and masks dropped groups
with 0 (model.group_mask, set here). The base under an adapter is an export of the import in FP32: the same values, and
of an FP8 source without the kernels that transformers has for GPUs only."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import transformers
import zstandard

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from check_export import BOUND, compare, load  # noqa: E402

HERE = pathlib.Path(__file__).parent
# Those that transformers 5.24 cannot compute (README.md).
NOT_IN_TRANSFORMERS = {"deepseek_v2_normalised", "deepseek_v3_group_mask_zero", "deepseek_v3_mtp"}
STEPS = 12
HAS_EXPERT_MODULES = transformers.__version__.startswith("4.")


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")


def write_data(folder):
    """Letters and the space as a vocabulary, and a text of them."""
    vocab = {" ": 0} | {chr(ord("a") + i): i + 1 for i in range(26)}
    (folder / "tokenizer.json").write_text(json.dumps(
        {"added_tokens": [], "decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    novel = (HERE.parents[2] / "data/samples/emma.txt").read_text()[:200000].lower()
    (folder / "train.txt").write_text("".join(c if c in vocab else " " for c in novel))


def unpack(case, to):
    to.mkdir()
    for path in (HERE / case).iterdir():
        if path.name.startswith("golden"):
            continue
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().decompress(content, max_output_size=1 << 28)
        (to / path.name.removesuffix(".zst")).write_bytes(content)
    config = json.loads((to / "config.json").read_text())
    if HAS_EXPERT_MODULES and config["model_type"] == "deepseek_v2":
        (to / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))


def train(sluice, work, name, *edits):
    edits = (f"run.init_from={work}/import", f"run.dir={work}/{name}", f"data.tokenizer={work}/tokenizer.json",
             f"data.train={work}/train.txt", f"data.cache_dir={work}/cache", f"train.steps={STEPS}",
             "train.global_batch=4", "train.lr.peak=0.01", "train.lr.warmup_steps=0", "eval.every=0",
             "eval.sample_every=0", "checkpoint.every=0", *edits)
    run(sluice, "train", "--config", work / "import/config.textproto", *(x for e in edits for x in ("--set", e)))


def check(sluice, case, work):
    unpack(case, work / "source")
    write_data(work)
    config = (work / "source/config.json").read_text()
    run(sluice, "import", "--from", work / "source", "--to", work / "import", "--set", "compute.precision=FP32",
        "--set", "train.sequence_length=64",
        *(("--set", "model.group_mask=zero") if HAS_EXPERT_MODULES and "n_group" in config else ()))
    shares = []
    train(sluice, work, "tuned")
    train(sluice, work, "lora", "finetune.mode=lora", "finetune.lora.rank=3", "finetune.lora.alpha=12")
    for name in ("tuned", "lora"):
        run(sluice, "export", "--from", work / name, "--to", work / f"{name}-hf", "--dtype", "fp32")
        model = load(work / f"{name}-hf")
        worst, largest, _ = compare(sluice, work / name, model)
        shares.append(worst / largest)
    moved, _, _ = compare(sluice, work / "import", model)
    name = type(model).__name__
    if HAS_EXPERT_MODULES:
        run(sluice, "adapter", "--checkpoint", work / "lora", "--to", work / "adapter")
        run(sluice, "export", "--from", work / "import", "--to", work / "base-hf", "--dtype", "fp32")
        worst, largest, _ = compare(sluice, work / "lora", load(work / "base-hf", work / "adapter"))
        shares.append(worst / largest)
    return name, shares, moved / largest


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    cases = args.cases or sorted(path.parent.name for path in HERE.glob("*/config.json"))
    columns = ["trained", "merged"] + ["PEFT"] * HAS_EXPERT_MODULES
    failed = False
    print(f"{'case':24} {'class':26} " + " ".join(f"{column:>9}" for column in columns) + "   LoRA moved")
    for case in cases:
        if case in NOT_IN_TRANSFORMERS:
            continue
        with tempfile.TemporaryDirectory() as folder:
            name, shares, moved = check(args.sluice, case, pathlib.Path(folder))
        failed = failed or max(shares) > BOUND["FP32"] or moved < 100 * BOUND["FP32"]
        print(f"{case:24} {name:26} " + " ".join(f"{share:9.1e}" for share in shares) + f"   {moved:10.1e}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
