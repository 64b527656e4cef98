"""Makes variants.jsonl.zst: encodings by Hugging Face's `tokenizers` (0.23.3) that ours must equal.

Usage: pip install tokenizers; python make_variants.py BASE_TOKENIZER_JSON TEXT_FILE | zstd -19 > variants.jsonl.zst
BASE_TOKENIZER_JSON is a small byte-level vocabulary, as `sluice tokenize` trains it.
The first line is that tokenizer. A line with "variant" replaces parts of it; the lines after it, up
to the next such line, are its cases.
"""
import copy
import json
import random
import sys

from tokenizers import Tokenizer

random.seed(20240817)
base = json.load(open(sys.argv[1]))
words = open(sys.argv[2], encoding="utf-8").read()[:200000].split(" ")

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTE_LEVEL, "use_regex": True}


def seq(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern, behavior="Isolated", invert=False, literal=False):
    kind = "String" if literal else "Regex"
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DIGITS = {"type": "Digits", "individual_digits": True}
VARIANTS = {
    "cl100k": (seq(split(CL100K), BYTE_LEVEL), None),
    "cl100k nfc": (seq(split(CL100K), BYTE_LEVEL), "NFC"),
    "o200k": (seq(split(O200K), BYTE_LEVEL), None),
    "gpt2": (GPT2, None),
    "gpt2 with prefix space": ({**GPT2, "add_prefix_space": True}, None),
    "digits, gpt2": (seq(DIGITS, GPT2), None),
    "digit runs, prefix space": (seq({**DIGITS, "individual_digits": False}, {**BYTE_LEVEL, "add_prefix_space": True}), None),
    "deepseek v2": (seq(split("[\r\n]"), split(r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u0391-\u03a9]+"),
                        split(r"\s?[!-/:-~\uff01-\uff0f\u2018-\u201f\u3000-\u3002]+"), split(r"\s+$"),
                        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), DIGITS, BYTE_LEVEL), None),
    "punctuation": (seq(punctuation("Isolated"), BYTE_LEVEL), "NFC"),
    "punctuation contiguous": (seq(punctuation("Contiguous"), BYTE_LEVEL), "NFD"),
    "punctuation with previous": (seq(punctuation("MergedWithPrevious"), BYTE_LEVEL), "NFKC"),
    "punctuation with next": (seq(punctuation("MergedWithNext"), BYTE_LEVEL), "NFKD"),
    "punctuation removed": (seq(punctuation("Removed"), BYTE_LEVEL), None),
    "whitespace": (seq({"type": "Whitespace"}, BYTE_LEVEL), None),
    "whitespace split": (seq({"type": "WhitespaceSplit"}, BYTE_LEVEL), None),
    "literal with next": (seq(split(" ", "MergedWithNext", literal=True), BYTE_LEVEL), None),
    "literal with previous": (seq(split("e", "MergedWithPrevious", literal=True), BYTE_LEVEL), None),
    "words only": (seq(split(r"\w+", "Removed", invert=True), BYTE_LEVEL), None),
    "inverted with previous": (seq(split(r"\w+", "MergedWithPrevious", invert=True), BYTE_LEVEL), None),
    "inverted contiguous": (seq(split(r"\W+", "Contiguous", invert=True), BYTE_LEVEL), None),
    "empty matches": (seq(split("a*"), BYTE_LEVEL), None),
    "look ahead only": (seq(split("(?=[A-Z])"), BYTE_LEVEL), None),
    "line anchors": (seq(split("^.|.$"), BYTE_LEVEL), None),
    "scripts": (seq(split(r"[\p{Han}\p{Hiragana}]+"), split(r"\d+"), split(r"\S+\v?"), BYTE_LEVEL), None),
    "possessive": (seq(split(r"[\p{Lu}\p{Lt}]?[\p{Ll}]++|\w?+"), BYTE_LEVEL), None),
}
ADDED = [("<sp>", "l", True), ("<|im_start|>", "r", True), ("<mask>", "lrn", True), ("Ne\u0301el", "n", False),
         ("foo", "w", False), ("foobar", "n", False)]
SPACES = "  \n\r\t\x0b\x0c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\x1c\x1f\x00"
PUNCTUATION = "'!?.,;:\"()[]{}<>|/\\@#$%^&*-_=+`~\u2013\u2014\u2026\u00ab\u00bb\u00a1\u00bf\u3002\u3001"
LETTERS = "\u00e9\u00e8\u00fc\u00df\u00f1\u03a9\u03c9\u0436\u05e9\u0644\u0939\u093f\u0e17\u0e22\u6f22\u5b57\u304b\u306a\u30ab\ud55c\uae00e\u0301\u0308\u200d\ufe0f\u017fK\u2460\ufb01\u0345\u00aa\u00ba"
OTHERS = "\U0001f600\U0001f44d\U0001f3fd\u200d\U0001f1e9\U0001d518\U00010400a\u0300\uac00\u1100\u1161"


def character():
    r = random.random()
    if r < .45:
        return random.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if r < .6:
        return random.choice(SPACES)
    if r < .7:
        return random.choice("0123456789\u0663\u00bd\u00b2\u2167\u4e00")
    return random.choice(PUNCTUATION if r < .85 else LETTERS if r < .93 else OTHERS)


def text():
    if random.random() < .3:
        return " ".join(random.choices(words, k=random.randint(1, 20)))
    parts = []
    for _ in range(random.randint(0, 30)):
        r = random.random()
        if r < .1:
            parts.append(random.choice(["'s", "'LL", "'\u017f", "'re", "<sp>", "<|im_start|>", "<mask>", "N\u00e9el",
                                        "foo", "<sp", "foobar", "'T"]))
        elif r < .2:
            parts.append(character() * random.randint(1, 200 if r < .103 else 5))
        else:
            parts.append(random.choice(words) if r < .4 else character())
    return "".join(parts)


def line(value):
    print(json.dumps(value, ensure_ascii=True))


line(base)
for i, (name, (pre_tokenizer, form)) in enumerate(VARIANTS.items()):
    tokenizer = copy.deepcopy(base)
    parts = {"pre_tokenizer": pre_tokenizer, "normalizer": {"type": form} if form else None}
    tokenizer["model"]["ignore_merges"] = i % 2 == 1
    for content, flags, special in ADDED if i % 3 else []:
        tokenizer["added_tokens"].append({
            "id": len(base["model"]["vocab"]) + len(tokenizer["added_tokens"]) - len(base["added_tokens"]),
            "content": content, "single_word": "w" in flags, "lstrip": "l" in flags, "rstrip": "r" in flags,
            "normalized": "n" in flags, "special": special})
    parts["added_tokens"] = tokenizer["added_tokens"]
    tokenizer.update(parts)
    line({"variant": name, "ignore_merges": i % 2 == 1, **parts})
    reference = Tokenizer.from_str(json.dumps(tokenizer))
    for _ in range(50):
        sample = text()
        ids = reference.encode(sample, add_special_tokens=False).ids
        line({"text": sample, "ids": ids, "decoded": reference.decode(ids, skip_special_tokens=False),
              "skipped": reference.decode(ids)})
