#!/usr/bin/env python3
"""Compares `sluice tokenize --chat` with what transformers makes of released chat templates.

    pip install transformers==5.24.0
    check_chat_templates.py [--sluice build/sluice] deepseek_v3=deepseekv3.jinja qwen3=tokenizer_config.json ...

A file is the template's text, or a tokenizer_config.json that has it; `mixtral=mistral-common` asks that package
(mistral-common[sentencepiece] 1.13.1 was tried) for the text of its first instruction format. Every conversation goes
through both, with a vocabulary of bytes and the families' control tokens; ids must be equal. Exit code 1 when some are
not."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from transformers import PreTrainedTokenizerFast

# DeepSeek's templates spell their end of text out; the others ask the tokenizer for it.
BOS, EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
CONTROL = [BOS, EOS, "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<|im_start|>", "<|im_end|>",
           "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"]
CONVERSATIONS = [
    [("user", "Hello"), ("assistant", "Good day.")],
    [("system", "Be brief."), ("user", "Hello"), ("assistant", "Good day.")],
    [("user", "a"), ("assistant", "b"), ("user", "c\nd"), ("assistant", "e \u00e9\u4e2d")],
    [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"),
     ("assistant", "f")],
]


def write_tokenizer(path):
    vocab, following = {}, 256
    for byte in range(256):
        same = 0x21 <= byte <= 0x7E or (0xA1 <= byte and byte != 0xAD)
        vocab[chr(byte if same else following)] = byte
        following += not same
    added = [{"id": 256 + i, "content": token, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
              "single_word": False} for i, token in enumerate(CONTROL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}))


def mistral_text(turns):
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    tokenizer = MistralTokenizer.v1()
    tokenizer._chat_completion_request_validator._mode = ValidationMode.finetuning  # an answer may be the end
    messages = [kinds[role](content=content) for role, content in turns]
    text = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages)).text
    for shown, meant in (("\u2581", " "), ("<0x0A>", "\n"), ("</s>", EOS), ("<s>", BOS)):
        text = text.replace(shown, meant)
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("templates", nargs="+", metavar="NAME=FILE")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        write_tokenizer(path)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token=BOS, eos_token=EOS)
        for name, file in (pair.split("=", 1) for pair in args.templates):
            template = "" if file == "mistral-common" else pathlib.Path(file).read_text()
            if file.endswith(".json"):
                template = json.loads(template)["chat_template"]
            equal = 0
            for turns in CONVERSATIONS:
                messages = [{"role": role, "content": content} for role, content in turns]
                text = mistral_text(turns) if file == "mistral-common" else tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False)
                wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
                done = subprocess.run([args.sluice, "tokenize", "--ids", "--chat", name, "--tokenizer", str(path)],
                                      input=json.dumps({"messages": messages}) + "\n", capture_output=True, text=True,
                                      check=True)
                found = json.loads(done.stdout)["ids"]
                equal += found == wanted
                if found != wanted:
                    print(f"{name}: wanted {text!r}, found {tokenizer.decode(found)!r}")
            print(f"{name:12} {equal} of {len(CONVERSATIONS)} conversations equal")
            failed = failed or equal != len(CONVERSATIONS)
    sys.exit(failed)


if __name__ == "__main__":
    main()
