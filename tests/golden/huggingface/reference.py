"""The models in plain PyTorch, from the papers: DeepSeek-V3 (arXiv 2412.19437, section 2), DeepSeek-V2
(arXiv 2405.04434), YaRN (arXiv 2309.00071), and for grouped-query attention Qwen3, Mixtral and OLMoE.

`w` maps names on disk to tensors; `c` is a config.json as a dict, plus two keys of ours: group_mask
("minus_infinity" or "zero") and mtp_loss_weight. Used where transformers has no answer, and checked against
it where it has one (make_goldens.py)."""
import math

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope_angles(c, dim, length):
    rope = c.get("rope_parameters") or {"rope_theta": c.get("rope_theta", 10000.0), **(c.get("rope_scaling") or {})}
    i = torch.arange(0, dim, 2, dtype=torch.float64)
    freq = rope["rope_theta"] ** (-i / dim)
    rotation, softmax = 1.0, 1.0
    if (rope.get("rope_type") or rope.get("type")) == "yarn":
        s, original = rope["factor"], rope["original_max_position_embeddings"]
        corr = lambda n: dim * math.log(original / (n * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))
        low = max(math.floor(corr(rope["beta_fast"])), 0)
        high = min(math.ceil(corr(rope["beta_slow"])), dim - 1)
        ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / s * ramp + freq * (1 - ramp)
        mscale = lambda a: 0.1 * a * math.log(s) + 1
        a, b = rope.get("mscale"), rope.get("mscale_all_dim")
        rotation = mscale(a) / mscale(b) if a and b else mscale(1.0)
        softmax = mscale(b) ** 2 if b else 1.0
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq
    return (angle.cos() * rotation).float(), (angle.sin() * rotation).float(), softmax


def rotate(x, cos, sin, interleaved):  # x [..., T, D]
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attend(q, k, v, scale):  # [B, A, T, D]
    scores = q @ k.transpose(-1, -2) * scale
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(mask, -torch.inf).softmax(-1) @ v


def mla(w, c, p, x):
    B, T, _ = x.shape
    heads, nope, rot, v, rank = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim",
                                                "v_head_dim", "kv_lora_rank"))
    if c.get("q_lora_rank"):
        q = rms_norm(x @ w[p + "q_a_proj.weight"].T, w[p + "q_a_layernorm.weight"], 1e-6) @ w[p + "q_b_proj.weight"].T
    else:
        q = x @ w[p + "q_proj.weight"].T
    q = q.view(B, T, heads, nope + rot).transpose(1, 2)
    down = x @ w[p + "kv_a_proj_with_mqa.weight"].T
    latent = rms_norm(down[..., :rank], w[p + "kv_a_layernorm.weight"], 1e-6)
    up = (latent @ w[p + "kv_b_proj.weight"].T).view(B, T, heads, nope + v).transpose(1, 2)
    cos, sin, softmax = rope_angles(c, rot, T)
    pairs = c.get("rope_interleave", True)
    q = torch.cat([q[..., :nope], rotate(q[..., nope:], cos, sin, pairs)], -1)
    key = rotate(down[..., rank:], cos, sin, pairs)[:, None].expand(-1, heads, -1, -1)
    o = attend(q, torch.cat([up[..., :nope], key], -1), up[..., nope:], softmax / math.sqrt(nope + rot))
    return o.transpose(1, 2).reshape(B, T, heads * v) @ w[p + "o_proj.weight"].T


def gqa(w, c, p, x):
    B, T, _ = x.shape
    heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
    head = c.get("head_dim") or c["hidden_size"] // heads
    cos, sin, _ = rope_angles(c, head, T)

    def project(letter, count, is_rotated):
        y = x @ w[p + letter + "_proj.weight"].T
        norm = w.get(p + letter + "_norm.weight")
        if norm is not None and norm.numel() != head:
            y = rms_norm(y, norm, c["rms_norm_eps"])
        y = y.view(B, T, count, head).transpose(1, 2)
        if norm is not None and norm.numel() == head:
            y = rms_norm(y, norm, c["rms_norm_eps"])
        return rotate(y, cos, sin, False) if is_rotated else y

    q, k, v = project("q", heads, True), project("k", groups, True), project("v", groups, False)
    k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
    return attend(q, k, v, head**-0.5).transpose(1, 2).reshape(B, T, -1) @ w[p + "o_proj.weight"].T


def top(x, k):  # ties to the lower index
    return torch.sort(x, dim=-1, descending=True, stable=True)[1][..., :k]


def gate(w, c, p, x, gaps):
    """Experts and weights of each row; appends the smallest gap between what was chosen and what was not."""
    logits = x @ w[p + "weight"].T
    sigmoid = c["model_type"] == "deepseek_v3"
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    choice = scores + w[p + "e_score_correction_bias"] if sigmoid else scores

    def gap(values, k):  # ties among masked zeros are meant: the lower index wins
        o = values.sort(-1, descending=True)[0]
        distance = torch.where((o[..., k - 1] == 0) & (o[..., k] == 0), torch.inf, o[..., k - 1] - o[..., k])
        return distance.min().item()

    groups, k = c.get("n_group") or 1, c["num_experts_per_tok"]
    if groups > 1:
        grouped = choice.unflatten(-1, (groups, -1))
        group_score = grouped.topk(2, -1)[0].sum(-1) if sigmoid else grouped.amax(-1)
        gaps.append(gap(group_score, c["topk_group"]))
        keep = torch.zeros_like(group_score).scatter(-1, top(group_score, c["topk_group"]), 1.0).bool()
        masked = 0.0 if c.get("group_mask") == "zero" else -torch.inf
        choice = grouped.masked_fill(~keep[..., None], masked).flatten(-2)
    if k < choice.shape[-1]:
        gaps.append(gap(choice, k))
    experts = top(choice, k)
    weights = scores.gather(-1, experts)
    if c.get("norm_topk_prob", c["model_type"] == "mixtral"):
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, weights * c.get("routed_scaling_factor", 1.0)


def feedforward(w, names, x):
    g, u, d = (w[n + ".weight"] for n in names)
    return (F.silu(x @ g.T) * (x @ u.T)) @ d.T


def moe(w, c, p, x, gaps):
    mixtral = c["model_type"] == "mixtral"
    block = p + ("block_sparse_moe." if mixtral else "mlp.")
    letters = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    flat = x.flatten(0, 1)
    experts, weights = gate(w, c, block + "gate.", flat, gaps)
    y = torch.zeros_like(flat)
    for e in range(w[block + "gate.weight"].shape[0]):
        token, slot = (experts == e).nonzero(as_tuple=True)
        out = feedforward(w, [f"{block}experts.{e}.{l}" for l in letters], flat[token])
        y = y.index_add(0, token, out * weights[token, slot, None])
    if c.get("n_shared_experts"):
        y = y + feedforward(w, [block + "shared_experts." + l for l in letters], flat)
    return y.view_as(x)


def block(w, c, index, x, gaps, is_moe):
    p = f"model.layers.{index}."
    attention = mla if c.get("kv_lora_rank") else gqa
    x = x + attention(w, c, p + "self_attn.", rms_norm(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"]))
    h = rms_norm(x, w[p + "post_attention_layernorm.weight"], c["rms_norm_eps"])
    if is_moe:
        return x + moe(w, c, p, h, gaps)
    return x + feedforward(w, [p + "mlp." + l for l in ("gate_proj", "up_proj", "down_proj")], h)


def forward(w, c, tokens):
    """tokens [B, T] -> logits [B, T, V], normed hidden states [B, T, H], gaps of the selections."""
    gaps = []
    x = w["model.embed_tokens.weight"][tokens]
    dense = c.get("first_k_dense_replace") or len(c.get("mlp_only_layers") or [])
    for index in range(c["num_hidden_layers"]):
        x = block(w, c, index, x, gaps, index >= dense)
    hidden = rms_norm(x, w["model.norm.weight"], c["rms_norm_eps"])
    return hidden @ head(w).T, hidden, gaps


def head(w):
    return w.get("lm_head.weight", w["model.embed_tokens.weight"])


def mtp_logits(w, c, tokens, hidden, gaps):
    """Depth 1 (section 2.2): row i sees tokens 0 .. i + 1 and predicts token i + 2. eh_proj reads the embedding
    first, and `hidden` after the final norm, as the released weights want it."""
    p = f"model.layers.{c['num_hidden_layers']}."
    embedded = w["model.embed_tokens.weight"][tokens[:, 1:]]
    eps = c["rms_norm_eps"]
    joined = torch.cat([rms_norm(embedded, w[p + "enorm.weight"], eps),
                        rms_norm(hidden[:, :-1], w[p + "hnorm.weight"], eps)], -1)
    x = block(w, c, c["num_hidden_layers"], joined @ w[p + "eh_proj.weight"].T, gaps, True)
    return rms_norm(x, w[p + "shared_head.norm.weight"], eps) @ head(w).T
