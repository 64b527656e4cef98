#!/usr/bin/env python3
"""Makes the small instruction set for fine-tuning examples from the sample novels.

Usage: python3 data/instructions/make_instructions.py data/samples data/instructions
Writes train.jsonl and held_out.jsonl, lines of {"prompt": ..., "completion": ...}. Three tasks:
the end of a sentence, the speaker of a line, the novel that a sentence is from.
The output depends on the novels only.
"""
import json
import os
import random
import re
import sys

TITLES = {"emma": "Emma", "mansfieldpark": "Mansfield Park", "northangerabbey": "Northanger Abbey", "persuasion": "Persuasion",
          "prideprejudice": "Pride and Prejudice", "sensesensibility": "Sense and Sensibility"}
PER_TASK = 120  # of a novel
HELD_OUT = 6    # of these, in a file of their own
SPOKEN = re.compile(r'"([^"]{20,160}[,!?])" (?:said|cried|replied) ((?:Mrs?\. |Miss |Sir |Lady |Captain )?[A-Z][a-z]+)\b')


def sentences(text):
    for sentence in re.findall(r"[A-Z][^.!?\"]{60,160}[.!?](?=\s)", text):
        if not re.search(r"\b(?:Mr|Mrs|Dr|St)\.$|CHAPTER|_", sentence):
            yield " ".join(sentence.split())


def ends(text, _):
    for sentence in sentences(text):
        words = sentence.split()
        cut = len(words) * 2 // 3
        yield "Finish the sentence: " + " ".join(words[:cut]), " ".join(words[cut:])


def speakers(text, _):
    for line, speaker in SPOKEN.findall(" ".join(text.split())):
        yield 'Who says: "%s"' % line.rstrip(","), speaker + "."


def novels(text, title):
    for sentence in sentences(text):
        yield "Which novel is this from: " + sentence, title + "."


def main():
    folder, output = sys.argv[1:3]
    train, held_out = [], []
    for name, title in sorted(TITLES.items()):
        with open(os.path.join(folder, name + ".txt"), encoding="utf-8") as file:
            text = file.read()
        for task in (ends, speakers, novels):
            chosen = sorted(set(task(text, title)))
            random.Random(name + task.__name__).shuffle(chosen)
            chosen = chosen[:PER_TASK]
            held_out += chosen[:HELD_OUT]
            train += chosen[HELD_OUT:]
    random.Random(0).shuffle(train)
    for name, pairs in (("train.jsonl", train), ("held_out.jsonl", held_out)):
        with open(os.path.join(output, name), "w", encoding="utf-8") as file:
            for prompt, completion in pairs:
                file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


if __name__ == "__main__":
    main()
