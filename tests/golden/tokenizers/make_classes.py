"""Makes classes.json.zst: which code points match the character classes of split patterns in Oniguruma, as Hugging
Face's `tokenizers` (0.23.3) runs it. Ours must agree on each code point that our Unicode version has.

Usage: pip install tokenizers; python make_classes.py | zstd -19 > classes.json.zst
A class has the lengths of runs of code points (without surrogates) that match and that do not, in turns; first not.
"""
import json

from tokenizers import Regex, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
TEXT = "".join(map(chr, CODES))
CLASSES = [r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r".", r"\p{L}", r"\P{L}", r"\p{N}", r"\p{P}", r"\p{S}", r"\p{M}", r"\p{Z}", r"\p{Lu}",
           r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", r"\p{Mn}", r"\p{Mc}", r"\p{Nd}", r"\p{Nl}", r"\p{No}", r"\p{Sc}", r"\p{Pd}",
           r"\p{Cc}", r"\p{Han}", r"\p{Hiragana}", r"\p{Katakana}", r"\p{Hangul}", r"\p{Latin}", r"\p{Cyrillic}", r"\p{Arabic}", r"\p{Thai}",
           r"[^\r\n\p{L}\p{N}]", r"[^\s\p{L}\p{N}]", r"[\p{L}\p{M}]", r"[!-/:-~]", r"(?i:[sdmtrevl])", r"(?i:k)", r"(?i:\u00df)", r"(?i:\u01c6)"]
result = {}
for name in CLASSES:
    parts = pre_tokenizers.Split(Regex("(?:%s)+" % name), "removed", invert=True).pre_tokenize_str(TEXT)
    runs, at = [], 0
    for _, (begin, end) in parts:
        if runs and begin == at:
            runs[-1] += end - begin
        else:
            runs += [begin - at, end - begin]
        at = end
    result[name] = runs
print(json.dumps(result, separators=(",", ":")))
