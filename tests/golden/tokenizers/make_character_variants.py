"""Makes character_variants.jsonl.zst: encodings by Hugging Face's `tokenizers` (0.23.3) that ours must equal, of
vocabularies of characters with byte fallback as SentencePiece's BPE has them (Llama 2, Mixtral, Gemma).

Usage: pip install tokenizers; python make_character_variants.py TEXT_FILE | zstd -19 > character_variants.jsonl.zst
The first line is a tokenizer. A line with "variant" replaces top-level parts of it ("parts"), fields of its model
("model") and removes tokens ("remove"); the lines after it, up to the next such line, are its cases.
"""
import copy
import json
import random
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

random.seed(20250915)
text = open(sys.argv[1], encoding="utf-8").read()[:200000]
words = text.split(" ")
MARK = "\u2581"

tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
tokenizer.train_from_iterator(
    [line for line in text.split("\n") if line],
    trainers.BpeTrainer(vocab_size=1100, show_progress=False, initial_alphabet=list("\u00e9\u00fc\u6f22\u0301\u00ad"),
                        special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]))
base = json.loads(tokenizer.to_str())
# Byte tokens are tokens of the model, not added ones.
base["added_tokens"] = base["added_tokens"][:3]
# Runs of spaces and of line ends, as those vocabularies have them.
for left, right in [(MARK, MARK), (MARK * 2, MARK * 2), (MARK * 4, MARK * 4), ("\n", "\n")]:
    for token in (left, right, left + right):
        base["model"]["vocab"].setdefault(token, len(base["model"]["vocab"]))
    base["model"]["merges"].append([left, right])

PREPEND = {"type": "Prepend", "prepend": MARK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}


def norm(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def pre(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def dec(*steps):
    return {"type": "Sequence", "decoders": list(steps)}


def metaspace(scheme="always", split=True):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}


def split(pattern, behavior, literal=False, invert=False):
    return {"type": "Split", "pattern": {"String" if literal else "Regex": pattern}, "behavior": behavior, "invert": invert}


def template(before, behind):
    def piece(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    names = before + behind
    return {"type": "TemplateProcessing", "single": [*map(piece, before), {"Sequence": {"id": "A", "type_id": 0}}, *map(piece, behind)],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [base["model"]["vocab"][n]], "tokens": [n]} for n in names}}


UNMARK = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
FALLBACK, FUSE, STRIP = {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
LLAMA = dec(UNMARK, FALLBACK, FUSE, STRIP)
SPLIT_SPACE = split(" ", "MergedWithPrevious", literal=True)
V = {
    "llama 2": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, post_processor=template(["<s>"], [])),
    "mistral": dict(pre_tokenizer=metaspace("first", False), decoder=LLAMA, post_processor=template(["<s>"], ["</s>"])),
    "metaspace": dict(pre_tokenizer=metaspace(), decoder=metaspace()),
    "metaspace never": dict(pre_tokenizer=metaspace("never"), decoder=metaspace("never")),
    "metaspace first": dict(pre_tokenizer=metaspace("first"), decoder=metaspace("first")),
    "metaspace always, whole": dict(pre_tokenizer=metaspace("always", False), decoder=dec(FALLBACK, metaspace())),
    "gemma": dict(normalizer=REPLACE, pre_tokenizer=SPLIT_SPACE, decoder=dec(UNMARK, FALLBACK, FUSE)),
    "unknown": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, model=dict(byte_fallback=False, fuse_unk=False)),
    "unknown fused": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, model=dict(byte_fallback=False)),
    "no unknown": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, model=dict(byte_fallback=False, unk_token=None)),
    "bytes missing": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, remove=["<0xE2>", "<0xCC>", "<0xF0>"]),
    "bytes missing, not fused": dict(normalizer=REPLACE, decoder=LLAMA, remove=["<0xE2>", "<0xCC>", "<0xF0>"], model=dict(fuse_unk=False)),
    "many normalizers": dict(normalizer=norm({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True},
                                             {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}), pre_tokenizer=metaspace(), decoder=metaspace()),
    "no accents": dict(normalizer=norm({"type": "NFD"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": True, "strip_right": False}, REPLACE), decoder=LLAMA),
    "strip right, empty matches": dict(normalizer=norm({"type": "Strip", "strip_left": False, "strip_right": True},
                                                       {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"}), decoder=dec(FALLBACK, FUSE)),
    "no decoder": dict(pre_tokenizer=metaspace(), decoder=None),
    "digits": dict(pre_tokenizer=pre({"type": "Digits", "individual_digits": True}, metaspace("first")), decoder=LLAMA),
    "punctuation": dict(pre_tokenizer=pre(metaspace("never", False), {"type": "Punctuation", "behavior": "Isolated"}), decoder=LLAMA),
    "words": dict(pre_tokenizer=pre({"type": "Whitespace"}, metaspace()), decoder=LLAMA),
    "delimiter": dict(pre_tokenizer=pre({"type": "CharDelimiterSplit", "delimiter": "e"}, metaspace("always", False)), decoder=LLAMA),
    "regex": dict(pre_tokenizer=split(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "Isolated"), decoder=dec(FALLBACK, FUSE)),
    "ignore merges": dict(pre_tokenizer=metaspace(), decoder=metaspace(), model=dict(ignore_merges=True)),
    "ignore merges, whole": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, model=dict(ignore_merges=True)),
    "template": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA,
                      post_processor={"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                                                                                        template(["<s>", "</s>"], ["</s>", "<s>"])]}),
    "roberta": dict(normalizer=norm(PREPEND, REPLACE), decoder=dec(FALLBACK, {"type": "Strip", "content": "e", "start": 2, "stop": 0}, FUSE),
                    post_processor={"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": False}),
    "mark inside tokens": dict(normalizer=norm(PREPEND, REPLACE), decoder=LLAMA, merges=[[",", MARK], ["." + MARK, "I"]], tokens=["," + MARK, "." + MARK, "." + MARK + "I"]),
}
ADDED = [("<sp>", "l", True), ("[INST]", "r", False), ("<mask>", "lrn", True), ("Ne\u0301el", "n", False), ("foo", "w", False), ("foobar", "n", False)]
LETTERS = ("\u00e9\u00e8\u00fc\u00df\u00f1\u03a9\u03c9\u0130\u0131\u0416\u05e9\u0644\u0939\u093f\u0e17\u6f22\u5b57\u304b\u30ab\ud55c\uae00e\u0301\u0308"
           "\u200d\ufe0f\u017fK\u2460\ufb01\u00aa\u1e9e\u01c5\u03a3\u2126")
OTHERS = "\U0001f600\U0001f44d\U0001f3fd\u200d\U0001f1e9\U0001d518\U00010400a\u0300\uac00\u1100\u1161\u2028\u00a0\u3000\u1680\x1c\x85\ufffd\u2581"


def character():
    r = random.random()
    if r < .4:
        return random.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if r < .6:
        return random.choice("   \n\n\t\r")
    if r < .7:
        return random.choice("0123456789\u0663\u00bd\u00b2\u2167\u4e00")
    return random.choice("'!?.,;:\"()[]<>-_\u2013\u2026\u00bf\u3002" if r < .8 else LETTERS if r < .92 else OTHERS)


def sample():
    if random.random() < .3:
        return " ".join(random.choices(words, k=random.randint(1, 15)))
    parts = []
    for _ in range(random.randint(0, 20)):
        r = random.random()
        if r < .12:
            parts.append(random.choice(["<sp>", "[INST]", "<mask>", "N\u00e9el", "foo", "<s>", "</s>", "foobar", " foo ", "<0x41>", "."]))
        elif r < .22:
            parts.append(character() * random.randint(1, 150 if r < .123 else 6))
        else:
            parts.append(random.choice(words) + random.choice(["", " "]) if r < .5 else character())
    return "".join(parts)


def line(value):
    print(json.dumps(value, ensure_ascii=True))


line(base)
for i, (name, parts) in enumerate(V.items()):
    model, remove = parts.pop("model", {}), parts.pop("remove", [])
    merges, tokens = parts.pop("merges", []), parts.pop("tokens", [])
    one = copy.deepcopy(base)
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        one[key] = parts.get(key)
    for content, flags, special in ADDED if i % 3 and not remove and not tokens else []:
        one["added_tokens"].append({
            "id": len(base["model"]["vocab"]) + len(one["added_tokens"]) - 3, "content": content, "single_word": "w" in flags,
            "lstrip": "l" in flags, "rstrip": "r" in flags, "normalized": "n" in flags, "special": special})
    one["model"].update(model)
    for token in tokens:
        one["model"]["vocab"][token] = len(base["model"]["vocab"]) + tokens.index(token)
    one["model"]["merges"] += merges if not merges else [[".", MARK]] + merges
    for token in remove:
        del one["model"]["vocab"][token]
    line({"variant": name, "parts": {k: v for k, v in one.items() if k != "model"}, "remove": remove,
          "tokens": {t: one["model"]["vocab"][t] for t in tokens}, "merges": one["model"]["merges"][len(base["model"]["merges"]):], "model": model})
    reference = Tokenizer.from_str(json.dumps(one))
    for _ in range(40):
        text = sample()
        ids = reference.encode(text, add_special_tokens=False).ids
        line({"text": text, "ids": ids, "special": reference.encode(text).ids,
              "decoded": reference.decode(ids, skip_special_tokens=False), "skipped": reference.decode(ids)})
