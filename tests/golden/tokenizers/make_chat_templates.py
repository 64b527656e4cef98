#!/usr/bin/env python3
"""Writes chat_templates.jsonl: what transformers makes of conversations with released chat templates.

    pip install transformers==5.24.0 mistral-common[sentencepiece]==1.13.1
    make_chat_templates.py FOLDER > chat_templates.jsonl

FOLDER has the templates as files NAME.jinja, see SOURCES; `mistral_common` is that package's own text of its first
instruction format. Lines: the template's name here, the source, the messages, whether the text is a prompt (all before
the last answer, and where that begins) or the whole conversation, and the text. BOS and EOS are <s> and </s>."""
import json
import pathlib
import sys
import tempfile

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

EOS = "<\uff5cend\u2581of\u2581sentence\uff5c>"  # DeepSeek's templates spell it out
# file, template here, source, kinds of text, and which conversations. What is left out:
# - R1's prompt opens a thought; an answer without one is learned here as it stands.
# - Kimi K2 of 0711 had another default system message; that of 0905 leaves the last turn open.
# - R1 takes the last system message only, Mixtral has one at most.
SOURCES = [
    ("deepseek_v3", "deepseek_v3", "deepseek-ai/DeepSeek-V3, tokenizer_config.json", "text prompt", "all"),
    ("deepseek_v3_1", "deepseek_v3_1", "deepseek-ai/DeepSeek-V3.1 in llama.cpp's models/templates, without tools",
     "text prompt", "all"),
    ("deepseek_r1", "deepseek_r1", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B in llama.cpp's models/templates", "text",
     "one system"),
    ("deepseek_v2", "deepseek_v2", "DeepSeek-V2 in llama.cpp's test-chat-template.cpp", "text prompt", "all"),
    ("chatml", "chatml", "teknium/OpenHermes-2.5-Mistral-7B in llama.cpp's test-chat-template.cpp", "text prompt",
     "all"),
    ("qwen3", "qwen3", "Qwen/Qwen3-0.6B in llama.cpp's models/templates, without tools", "text prompt", "all"),
    ("mistral_v1", "mixtral", "mistralai v1 template in llama.cpp's test-chat-template.cpp", "text prompt",
     "one system"),
    ("mistral_common", "mixtral", "mistral-common 1.13.1, MistralTokenizer.v1()", "text prompt", "one system"),
    ("olmoe_0924", "olmoe", "allenai/OLMoE-1B-7B-0924-Instruct, tokenizer_config.json", "text prompt", "all"),
    ("tulu", "olmoe", "template tulu of allenai/open-instruct, after BOS", "prompt", "all"),
    ("moonlight", "moonlight", "moonshotai/Moonlight-16B-A3B-Instruct, tokenizer_config.json", "text prompt", "all"),
    ("kimi_k2_0711", "kimi_k2", "moonshotai/Kimi-K2 in llama.cpp's models/templates", "text prompt", "system"),
    ("kimi_k2_0905", "kimi_k2", "moonshotai/Kimi-K2-Instruct-0905, chat_template.jinja", "prompt", "all"),
]
CONVERSATIONS = [
    [("user", "Hello"), ("assistant", "Good day.")],
    [("system", "Be brief."), ("user", "Hello"), ("assistant", "Good day.")],
    [("user", "a"), ("assistant", "b"), ("user", "c\nd"), ("assistant", "  e \u00e9\u4e2d  ")],
    [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"),
     ("assistant", "f")],
    [("user", "a\n"), ("assistant", "<think>\nx\n</think>\n\nb"), ("user", " c"), ("assistant", "d\n")],
    [("system", "S"), ("system", "T"), ("user", "a"), ("assistant", "b")],
]
# For the template that reads a field of thoughts.
WITH_THOUGHTS = [{"role": "user", "content": "a"},
                 {"role": "assistant", "content": "b", "reasoning_content": "first"},
                 {"role": "user", "content": "c"},
                 {"role": "assistant", "content": "d", "reasoning_content": "because"}]


def mistral_text(messages):
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    tokenizer = MistralTokenizer.v1()
    if messages[-1]["role"] == "assistant":
        tokenizer._chat_completion_request_validator._mode = ValidationMode.finetuning
    turns = [kinds[message["role"]](content=message["content"]) for message in messages]
    text = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=turns)).text
    return text.replace("\u2581", " ").replace("<0x0A>", "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        Tokenizer(models.BPE()).save(f"{scratch}/tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{scratch}/tokenizer.json", bos_token="<s>",
                                            eos_token="</s>")
    for file, name, source, kinds, which in SOURCES:
        conversations = [[{"role": role, "content": content} for role, content in turns] for turns in CONVERSATIONS]
        for messages in conversations + [WITH_THOUGHTS] * (name == "qwen3"):
            systems = sum(message["role"] == "system" for message in messages)
            if which == "one system" and systems > 1 or which == "system" and systems == 0:
                continue
            for kind in kinds.split():
                given = messages[:-1] if kind == "prompt" else messages
                if file == "mistral_common":
                    text = mistral_text(given)
                else:
                    text = tokenizer.apply_chat_template(
                        given, chat_template=(folder / f"{file}.jinja").read_text(), tokenize=False,
                        add_generation_prompt=kind == "prompt")
                print(json.dumps({"template": name, "source": source, "messages": messages, "prompt": kind == "prompt",
                                  "text": text.replace(EOS, "</s>")}))


if __name__ == "__main__":
    main()
