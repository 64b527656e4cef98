#!/usr/bin/env python3
"""The model of preset bench_cpu in plain PyTorch: the yardstick of whole training steps.

Eager mode, experts in a loop over tokens sorted by expert, forward, backward and AdamW on random
tokens. Prints one JSON object. Settings that matter (allocator, BLAS) are the caller's: see `run`.

  torch_peer.py fp32|bf16 STEPS THREADS
"""
import json
import math
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, HIDDEN, LAYERS, DENSE_WIDTH = 8192, 256, 4, 1024
EXPERTS, TOP_K, EXPERT_WIDTH = 16, 4, 256
HEADS, Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 8, 96, 64, 32, 16, 32
SEQUENCE, BATCH, WARM_UP = 256, 8, 3


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class RmsNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return (x.float() * scale * self.weight).to(x.dtype)


ANGLES = torch.arange(SEQUENCE)[:, None] * (10000 ** (-torch.arange(0, ROPE, 2) / ROPE))[None]
COS, SIN = ANGLES.cos(), ANGLES.sin()


def rope(x):
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * COS - odd * SIN, even * SIN + odd * COS], -1)


class LatentAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_a, self.q_norm = linear(HIDDEN, Q_RANK), RmsNorm(Q_RANK)
        self.q_b = linear(Q_RANK, HEADS * (NOPE + ROPE))
        self.kv_a, self.kv_norm = linear(HIDDEN, KV_RANK + ROPE), RmsNorm(KV_RANK)
        self.kv_b = linear(KV_RANK, HEADS * (NOPE + VALUE))
        self.out = linear(HEADS * VALUE, HIDDEN)
        mask = torch.triu(torch.full((SEQUENCE, SEQUENCE), float("-inf")), 1)
        self.register_buffer("mask", mask)

    def forward(self, x):
        batch, length, _ = x.shape

        def heads(t):
            return t.view(batch, length, HEADS, -1).transpose(1, 2)

        q_nope, q_rope = heads(self.q_b(self.q_norm(self.q_a(x)))).split([NOPE, ROPE], -1)
        latent = self.kv_a(x)
        kv = heads(self.kv_b(self.kv_norm(latent[..., :KV_RANK])))
        k_nope, v = kv.split([NOPE, VALUE], -1)
        k_rope = rope(latent[..., KV_RANK:].unsqueeze(1)).expand(-1, HEADS, -1, -1)
        q = torch.cat([q_nope, rope(q_rope)], -1)
        k = torch.cat([k_nope, k_rope.to(k_nope.dtype)], -1)
        scores = torch.matmul(q.to(k.dtype), k.transpose(-1, -2)) / math.sqrt(NOPE + ROPE)
        weights = F.softmax((scores + self.mask).float(), -1).to(v.dtype)
        mixed = torch.matmul(weights, v).transpose(1, 2)
        return self.out(mixed.reshape(batch, length, HEADS * VALUE))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate, self.up = linear(HIDDEN, width), linear(HIDDEN, width)
        self.down = linear(width, HIDDEN)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.shared = linear(HIDDEN, EXPERTS), FeedForward(EXPERT_WIDTH)
        self.experts = nn.ModuleList(FeedForward(EXPERT_WIDTH) for _ in range(EXPERTS))
        self.register_buffer("bias", torch.zeros(EXPERTS))

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, HIDDEN)
        scores = torch.sigmoid(F.linear(x.float(), self.router.weight))
        chosen = (scores + self.bias).topk(TOP_K, -1).indices
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.reshape(-1)
        order = flat.argsort()
        counts = flat.bincount(minlength=EXPERTS).tolist()
        token = order // TOP_K
        rows = x[token].split(counts)
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, rows)])
        weighted = outputs.float() * weights.reshape(-1)[order, None]
        mixed = torch.zeros(x.shape, dtype=torch.float32).index_add(0, token, weighted)
        return (self.shared(x) + mixed.to(x.dtype)).view(shape)


class Block(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.attention_norm, self.attention = RmsNorm(HIDDEN), LatentAttention()
        self.mlp_norm, self.mlp = RmsNorm(HIDDEN), FeedForward(DENSE_WIDTH) if dense else Experts()

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block(dense=i == 0) for i in range(LAYERS))
        self.norm, self.head = RmsNorm(HIDDEN), linear(HIDDEN, VOCAB)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1))


def main():
    precision, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.1)
    data = torch.randint(0, VOCAB, (4, BATCH, SEQUENCE + 1))
    seconds = []
    for step in range(steps + WARM_UP):
        batch = data[step % len(data)]
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({
        "what": "torch", "version": torch.__version__, "precision": precision, "threads": threads,
        "parameters": sum(p.numel() for p in model.parameters()), "loss": loss.item(),
        "seconds": statistics.median(seconds), "steps": steps,
        "tokens_per_second": BATCH * SEQUENCE / statistics.median(seconds)}))


if __name__ == "__main__":
    main()
