#!/usr/bin/env python3
"""Small random models of every family, and what transformers (or reference.py, where transformers has no answer)
computes from them: logits, log-probabilities, loss, and the gradient of every parameter.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 zstandard==0.25.0
    /tmp/venv/bin/python tests/golden/huggingface/make_goldens.py [CASE...]

Each case becomes a folder: config.json, model.safetensors.zst (or shards with their index), golden.safetensors.zst.
Gradients are stored with their lowest 8 bits zero (an error of 2^-17; the bound under test is 1e-4), which halves
the folder. Of the FP8 case those of more than 5,000 elements are left out."""
import json
import os
import pathlib
import shutil
import sys
import tempfile

import torch
import torch.nn.functional as F
import zstandard
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference  # noqa: E402

HERE = pathlib.Path(__file__).parent
LINES, LENGTH = 2, 24
MIN_GAP = 1e-5

YARN = dict(type="yarn", factor=40, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0,
            original_max_position_embeddings=16)
FP8 = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128])
YARN_V2 = dict(YARN, mscale=0.707, mscale_all_dim=0.707)
SHAPE = dict(vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=640,
             rms_norm_eps=1e-6, num_experts_per_tok=2, hidden_act="silu", tie_word_embeddings=False)
MLA = dict(SHAPE, intermediate_size=24, moe_intermediate_size=8, num_key_value_heads=4, n_routed_experts=8,
           kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
           first_k_dense_replace=1, n_shared_experts=1)
V3 = dict(MLA, model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], n_group=4, topk_group=2,
          topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True, routed_scaling_factor=2.5,
          rope_theta=10000.0, rope_scaling=YARN, num_nextn_predict_layers=0)
V2 = dict(MLA, model_type="deepseek_v2", architectures=["DeepseekV2ForCausalLM"], n_shared_experts=2, n_group=4,
          topk_group=2, topk_method="group_limited_greedy", scoring_func="softmax", norm_topk_prob=False,
          routed_scaling_factor=4.0, rope_theta=10000.0, rope_scaling=YARN_V2)
GQA = dict(SHAPE, num_key_value_heads=2, rope_theta=10000.0)
QWEN = dict(GQA, model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], intermediate_size=24,
            moe_intermediate_size=8, head_dim=16, num_experts=8, norm_topk_prob=True, decoder_sparse_step=1,
            mlp_only_layers=[], rope_theta=1e6)
MIXTRAL = dict(GQA, model_type="mixtral", architectures=["MixtralForCausalLM"], intermediate_size=12,
               num_local_experts=4, rope_theta=1e6, rms_norm_eps=1e-5, sliding_window=None)
OLMOE = dict(GQA, model_type="olmoe", architectures=["OlmoeForCausalLM"], intermediate_size=8, num_experts=8,
             norm_topk_prob=False, rms_norm_eps=1e-5, clip_qkv=None)

# name: (config, who computes, options)
CASES = {
    "deepseek_v3": (V3, "transformers", dict(shards=2)),
    "deepseek_v3_dense_3": (dict(V3, num_hidden_layers=4, first_k_dense_replace=3, n_group=1, topk_group=1,
                                 rope_scaling=None, tie_word_embeddings=True, norm_topk_prob=False), "transformers", {}),
    "deepseek_v3_half_rope": (dict(V3, rope_interleave=False, first_k_dense_replace=0, rope_scaling=None),
                              "transformers", {}),
    "moonlight": (dict(V3, q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2, rms_norm_eps=1e-5,
                       rope_theta=50000.0, rope_scaling=None, routed_scaling_factor=2.446), "transformers", {}),
    "deepseek_v2": (V2, "transformers", {}),
    "deepseek_v2_lite": (dict(V2, q_lora_rank=None, n_group=1, topk_group=1, topk_method="greedy",
                              routed_scaling_factor=1.0), "transformers", {}),
    "qwen3_moe": (QWEN, "transformers", {}),
    "qwen3_moe_yarn": (dict(QWEN, norm_topk_prob=False, tie_word_embeddings=True, mlp_only_layers=[0],
                            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
                       "transformers", dict(reference_defaults=dict(beta_fast=32, beta_slow=1))),
    "mixtral": (MIXTRAL, "transformers", {}),
    "olmoe": (OLMOE, "transformers", {}),
    "olmoe_normalised": (dict(OLMOE, norm_topk_prob=True, num_key_value_heads=4), "transformers", {}),
    # transformers does not apply norm_topk_prob of DeepSeek-V2, cannot leave shared experts out, masks dropped groups
    # with minus infinity only, and trains no MTP layer.
    "deepseek_v2_normalised": (dict(V2, norm_topk_prob=True, n_shared_experts=None), "reference.py", {}),
    "deepseek_v3_group_mask_zero": (dict(V3, rope_scaling=None, first_k_dense_replace=0), "reference.py",
                                    dict(group_mask="zero", bias_shift=-0.6)),
    "deepseek_v3_mtp": (dict(V3, num_nextn_predict_layers=1), "reference.py", dict(mtp=True)),
    # Codes and scales on disk, as released; matrices of 2 x 2 blocks, ragged at both edges. transformers gets the
    # values that they stand for, computed here, in a directory of FP32.
    "deepseek_v3_fp8": (dict(V3, hidden_size=136, intermediate_size=130, quantization_config=FP8), "transformers",
                        dict(most_gradient_elements=5000)),
}


def tensor_shapes(c):
    """Names on disk and shapes, as the released files have them."""
    H, V = c["hidden_size"], c["vocab_size"]
    shapes = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, H)
    mixtral = c["model_type"] == "mixtral"

    def ffn(prefix, width, letters=("gate_proj", "up_proj", "down_proj")):
        for letter in letters:
            shapes[f"{prefix}{letter}.weight"] = (H, width) if letter in ("down_proj", "w2") else (width, H)

    def attention(p):
        heads = c["num_attention_heads"]
        if c.get("kv_lora_rank"):
            q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
            if c["q_lora_rank"]:
                shapes[p + "q_a_proj.weight"] = (c["q_lora_rank"], H)
                shapes[p + "q_a_layernorm.weight"] = (c["q_lora_rank"],)
                shapes[p + "q_b_proj.weight"] = (q, c["q_lora_rank"])
            else:
                shapes[p + "q_proj.weight"] = (q, H)
            rank = c["kv_lora_rank"]
            shapes[p + "kv_a_proj_with_mqa.weight"] = (rank + c["qk_rope_head_dim"], H)
            shapes[p + "kv_a_layernorm.weight"] = (rank,)
            shapes[p + "kv_b_proj.weight"] = (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), rank)
            shapes[p + "o_proj.weight"] = (H, heads * c["v_head_dim"])
            return
        head = c.get("head_dim") or H // heads
        for letter, count in (("q", heads), ("k", c["num_key_value_heads"]), ("v", c["num_key_value_heads"])):
            shapes[f"{p}{letter}_proj.weight"] = (count * head, H)
            if letter != "v" and c["model_type"] in ("qwen3_moe", "olmoe"):
                shapes[f"{p}{letter}_norm.weight"] = (head if c["model_type"] == "qwen3_moe" else count * head,)
        shapes[p + "o_proj.weight"] = (H, heads * head)

    def layer(index, is_moe):
        p = f"model.layers.{index}."
        shapes[p + "input_layernorm.weight"] = shapes[p + "post_attention_layernorm.weight"] = (H,)
        attention(p + "self_attn.")
        if not is_moe:
            return ffn(p + "mlp.", c["intermediate_size"])
        block = p + ("block_sparse_moe." if mixtral else "mlp.")
        experts = c.get("n_routed_experts") or c.get("num_experts") or c.get("num_local_experts")
        shapes[block + "gate.weight"] = (experts, H)
        if c["model_type"] == "deepseek_v3":
            shapes[block + "gate.e_score_correction_bias"] = (experts,)
        width = c.get("moe_intermediate_size") or c["intermediate_size"]
        for e in range(experts):
            ffn(f"{block}experts.{e}.", width, ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj"))
        if c.get("n_shared_experts"):
            ffn(block + "shared_experts.", c["n_shared_experts"] * width)

    dense = c.get("first_k_dense_replace") or len(c.get("mlp_only_layers") or [])
    for index in range(c["num_hidden_layers"]):
        layer(index, index >= dense)
    if c.get("num_nextn_predict_layers"):
        p = f"model.layers.{c['num_hidden_layers']}."
        shapes.update({p + "embed_tokens.weight": (V, H), p + "shared_head.head.weight": (V, H),
                       p + "enorm.weight": (H,), p + "hnorm.weight": (H,), p + "shared_head.norm.weight": (H,),
                       p + "eh_proj.weight": (H, 2 * H)})
        layer(c["num_hidden_layers"], True)
    return shapes


def random_weights(c, seed, bias_shift=0.0):
    """BF16 values but for the gate's bias, which is FP32 in the released files too."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in sorted(tensor_shapes(c).items()):
        x = torch.randn(shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            weights[name] = x * 0.1 + bias_shift
            continue
        scale = 1.0 if "embed_tokens" in name else 1.5 if name.endswith("gate.weight") else 1.2
        x = 1 + 0.2 * x if len(shape) == 1 else x * scale / shape[-1] ** 0.5
        weights[name] = x.to(torch.bfloat16)
    if c.get("num_nextn_predict_layers"):
        p = f"model.layers.{c['num_hidden_layers']}."
        weights[p + "embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
        weights[p + "shared_head.head.weight"] = weights["lm_head.weight"].clone()
    return weights


def each_element(scales, shape):
    """A scale a block of 128 x 128 -> a scale an element."""
    return scales.repeat_interleave(128, 0)[:shape[0]].repeat_interleave(128, 1)[:, :shape[1]]


def to_fp8(weights):
    """Projections as E4M3 codes beside a scale a block: what a checkpoint holds, and the FP32 values that it means."""
    stored, values = {}, {}
    for name, weight in weights.items():
        plain = weight.dim() != 2 or "embed_tokens" in name or "lm_head" in name or name.endswith("gate.weight")
        if plain:
            stored[name] = values[name] = weight
            continue
        blocks = [-(-n // 128) for n in weight.shape]
        scales = torch.empty(blocks)
        for i in range(blocks[0]):
            for j in range(blocks[1]):
                scales[i, j] = weight[i * 128:i * 128 + 128, j * 128:j * 128 + 128].float().abs().max() / 448
        wide = each_element(scales, weight.shape)
        codes = (weight.float() / wide).to(torch.float8_e4m3fn)
        stored[name], stored[name + "_scale_inv"] = codes, scales
        values[name] = codes.float() * wide
    return stored, values


def save_model(folder, c, weights, shards, dtype="bfloat16"):
    (folder / "config.json").write_text(json.dumps(dict(c, torch_dtype=dtype), indent=2) + "\n")
    names = sorted(weights)
    if shards == 1:
        return save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in weights.values())}, "weight_map": {}}
    for i in range(shards):
        part = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({n: weights[n] for n in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({n: file for n in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def on_disk(name, gradient, mixtral):
    """A parameter of transformers 5 by its names on disk: experts are fused in memory."""
    if ".experts." not in name:
        yield (name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name), gradient
        return
    block = name[:name.index("experts.")]
    if mixtral:
        block = block.replace(".mlp.", ".block_sparse_moe.")
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for e, g in enumerate(gradient):
        if name.endswith("gate_up_proj"):
            for letter, half in zip((gate, up), g.chunk(2, 0)):
                yield f"{block}experts.{e}.{letter}.weight", half
        else:
            yield f"{block}experts.{e}.{down}.weight", g


def transformers_result(folder, c, tokens):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager")
    model.train(False)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        gradients.update(on_disk(name, parameter.grad, c["model_type"] == "mixtral"))
    return logits.detach(), loss.detach(), gradients


def reference_result(c, weights, tokens, mtp=False):
    w = {n: t.float().requires_grad_("correction_bias" not in n) for n, t in weights.items()
         if not n.endswith(("shared_head.head.weight",)) and not (n.startswith("model.layers") and "embed_tokens" in n)}
    logits, hidden, gaps = reference.forward(w, c, tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    result = {}
    total = loss
    if mtp:
        # All but the last position predict the token after the next; the weight is 0.3.
        more = reference.mtp_logits(w, c, tokens[:, :-1], hidden, gaps)
        mtp_loss = F.cross_entropy(more.flatten(0, 1), tokens[:, 2:].flatten())
        total = loss + 0.3 * mtp_loss
        result = {"mtp_logits": more.detach(), "mtp_loss": mtp_loss.detach()[None]}
    total.backward()
    gradients = {n: t.grad if t.grad is not None else torch.zeros_like(t) for n, t in w.items() if t.requires_grad}
    return logits.detach(), loss.detach(), gradients, min(gaps), result


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def compress(path):
    pathlib.Path(f"{path}.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(path.read_bytes()))
    path.unlink()


def make(name):
    config, maker, options = CASES[name]
    c = dict(config, group_mask=options.get("group_mask", "minus_infinity"))
    if "reference_defaults" in options:
        c["rope_scaling"] = dict(c["rope_scaling"], **options["reference_defaults"])
    for seed in range(100):
        weights = stored = random_weights(c, seed, options.get("bias_shift", 0.0))
        if "quantization_config" in c:
            stored, weights = to_fp8(weights)
        tokens = torch.randint(c["vocab_size"], (LINES, LENGTH + 1), generator=torch.Generator().manual_seed(seed + 1))
        own = reference_result(c, weights, tokens, options.get("mtp", False))
        if own[3] > 10 * MIN_GAP:
            break
    else:
        sys.exit(f"{name}: no seed without a near tie")
    logits, loss, gradients, gap, extra = own
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_model(folder, config, stored, options.get("shards", 1))
    if maker == "transformers":
        with tempfile.TemporaryDirectory() as plain:
            readable = folder
            if stored is not weights:
                readable = pathlib.Path(plain)
                save_model(readable, {k: v for k, v in config.items() if k != "quantization_config"},
                           {n: t.float() for n, t in weights.items()}, 1, "float32")
            logits, loss, gradients = transformers_result(readable, config, tokens)
        worst = max(relative(own[2][n], g) for n, g in gradients.items() if g.norm() > 0)
        off = ((own[0] - logits).abs().max() / logits.abs().max()).item()
        print(f"{name}: reference.py differs from transformers by {off:.2e} (logits), {worst:.2e} (gradients)")
        assert off < 5e-6 and worst < 5e-5 and set(gradients) == set(own[2])
    golden = {"tokens": tokens.to(torch.int32), "logits": logits, "loss": loss[None],
              "logprobs": logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0], **extra}
    for n, g in gradients.items():
        if g.numel() > options.get("most_gradient_elements", g.numel()):
            continue
        golden["gradient." + n] = ((g.contiguous().view(torch.int32) + 128) & ~255).view(torch.float32)
    save_file({n: t.contiguous() for n, t in golden.items()}, folder / "golden.safetensors",
              metadata={"made_by": maker, "smallest_gap": f"{gap:.3g}"})
    for path in folder.glob("*.safetensors"):
        compress(path)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: by {maker}, loss {loss.item():.6f}, smallest gap {gap:.2e}, {size} bytes")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for case in sys.argv[1:] or CASES:
        make(case)
