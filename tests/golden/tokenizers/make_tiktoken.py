"""Makes tiktoken.jsonl.zst: encodings by the package `tiktoken` (0.14.0), with the pattern of Moonshot's models
(tokenization_moonshot.py of moonshotai/Moonlight-16B-A3B), that ours must equal.

Usage: pip install tokenizers tiktoken; python make_tiktoken.py TEXT_FILE | zstd -19 > tiktoken.jsonl.zst
The first line has a tiktoken.model and a tokenizer_config.json; the others are cases.
"""
import base64
import json
import random
import sys

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

random.seed(20251101)
text = open(sys.argv[1], encoding="utf-8").read()[:200000]
words = text.split(" ")
LETTER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join([r"[\p{Han}]+", r"[^\r\n\p{L}\p{N}]?" + LETTER[0] + "*" + LETTER[1] + "+" + SUFFIX,
                    r"[^\r\n\p{L}\p{N}]?" + LETTER[0] + "+" + LETTER[1] + "*" + SUFFIX,
                    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
trained = Tokenizer(models.BPE())
trained.pre_tokenizer = byte_level
trained.train_from_iterator([text], trainers.BpeTrainer(vocab_size=900, show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
byte_of = {}
for b in range(256):
    printable = 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xff and b != 0xad
    byte_of[chr(b) if printable else chr(256 + len([c for c in byte_of if ord(c) >= 256]))] = b
merges = json.loads(trained.to_str())["model"]["merges"]
ranks = {bytes([b]): b for b in range(256)}
for left, right in merges:
    ranks.setdefault(bytes(byte_of[c] for c in left + right), len(ranks))
# A token that no merge makes: found only as a whole word.
ranks.setdefault(b" xyzzy", len(ranks))
names = {len(ranks): "[BOS]", len(ranks) + 1: "[EOS]", len(ranks) + 2: "<|im_end|>", len(ranks) + 3: "<|im_user|>"}
special = {names.get(i, "<|reserved_token_%d|>" % i): i for i in range(len(ranks), len(ranks) + 256)}
encoding = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
LETTERS = "\u00e9\u00e8\u00fc\u00df\u00f1\u03a9\u03c9\u0416\u05e9\u0644\u0939\u093f\u0e17\u6f22\u5b57\u3007\u3005\u304b\u30ab\ud55cA\u0301\u0308\u200d\u017fK\ufb01\u00aa\u01c5"


def character():
    r = random.random()
    if r < .45:
        return random.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if r < .6:
        return random.choice("   \n\n\t\r\u00a0\u3000\u2028\x85\x1c")
    return random.choice("0123456789\u0663\u00bd\u2167" if r < .7 else "'!?.,;:/()[]<>-_\u2013\u3002" if r < .8 else LETTERS)


def sample():
    parts = []
    for _ in range(random.randint(0, 25)):
        r = random.random()
        if r < .1:
            parts.append(random.choice(["[BOS]", "<|im_end|>", "<|reserved_token_%d|>" % (len(ranks) + 7), "'LL", "'\u017f", " xyzzy"]))
        else:
            parts.append(character() * random.randint(1, 7) if r < .2 else random.choice(words) + " " if r < .5 else character())
    return "".join(parts)


def line(value):
    print(json.dumps(value, ensure_ascii=True))


line({"model": "".join("%s %d\n" % (base64.b64encode(t).decode(), r) for t, r in ranks.items()),
      "config": {"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
                 "added_tokens_decoder": {str(i): {"content": n, "special": True} for i, n in names.items()}}})
for _ in range(400):
    one = sample()
    ids = encoding.encode(one, allowed_special="all")
    line({"text": one, "ids": ids, "decoded": encoding.decode(ids), "plain": encoding.encode_ordinary(one)})
