"""The three architectures as a practised PyTorch user writes them: fused library calls, no tricks.

Shapes: B batch, T sequence, C hidden, H heads, D head size, F MLP width, R low rank, V vocabulary.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Size:
    hidden: int
    layers: int
    heads: int
    ffn: int
    r: int
    vocab: int = 32000


SIZES = {
    "60m": Size(512, 8, 8, 1376, 128),
    "130m": Size(768, 12, 12, 2048, 256),
    "350m": Size(1024, 24, 16, 2736, 256),
    "1b": Size(2048, 24, 32, 5461, 448),
    "7b": Size(4096, 32, 32, 11008, 1024),
}


class LowRank(nn.Module):
    """CR-Net's Y = c Y_below + (X A) B, or CoLA's Y = SiLU(X A) B."""

    def __init__(self, inputs, outputs, r, arch):
        super().__init__()
        self.arch = arch
        std = (0.02 * r**-0.5) ** 0.5  # the entries of A B have std 0.02
        self.A = nn.Parameter(torch.randn(inputs, r) * std)
        self.B = nn.Parameter(torch.randn(r, outputs) * std)
        if arch == "crnet":
            self.beta = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, y_below):
        low = x @ self.A
        if self.arch == "cola":
            return F.silu(low) @ self.B
        c = self.beta + torch.where(self.beta < 0, -1e-6, 1e-6)
        return c.to(low.dtype) * y_below + low @ self.B


class FullRank(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x, y_below):
        return super().forward(x)


def projection(arch, layer, inputs, outputs, r):
    if arch == "llama" or (arch == "crnet" and layer == 0):
        return FullRank(inputs, outputs)
    return LowRank(inputs, outputs, r, arch)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class RMSNorm(nn.Module):
    """The library's rms_norm, with its weight in the dtype of the activations."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-6)


class Block(nn.Module):
    def __init__(self, arch, layer, size):
        super().__init__()
        self.heads = size.heads
        self.norm_attention = RMSNorm(size.hidden)
        self.norm_mlp = RMSNorm(size.hidden)

        def make(inputs, outputs):
            return projection(arch, layer, inputs, outputs, size.r)

        self.q, self.k, self.v, self.o = (make(size.hidden, size.hidden) for _ in range(4))
        self.gate, self.up = (make(size.hidden, size.ffn) for _ in range(2))
        self.down = make(size.ffn, size.hidden)

    def forward(self, x, below, cos, sin):
        normed = self.norm_attention(x)
        q, k, v = self.q(normed, below[0]), self.k(normed, below[1]), self.v(normed, below[2])
        o = self.o(self.attend(q, k, v, cos, sin), below[3])
        x = x + o
        normed = self.norm_mlp(x)
        gate, up = self.gate(normed, below[4]), self.up(normed, below[5])
        down = self.down(F.silu(gate) * up, below[6])
        return x + down, (q, k, v, o, gate, up, down)

    def attend(self, q, k, v, cos, sin):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        return attended.transpose(1, 2).flatten(2)


class CausalLM(nn.Module):
    """forward(tokens [B, T], targets [B, T]) -> mean cross entropy."""

    def __init__(self, arch, size, length):
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.hidden)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(arch, layer, size) for layer in range(size.layers))
        self.norm = RMSNorm(size.hidden)
        self.head = nn.Linear(size.hidden, size.vocab, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        head_size = size.hidden // size.heads
        frequency = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
        angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)  # [T, D]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # keeps the residual stream in bf16
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        below = (None,) * 7
        for block in self.blocks:
            x, below = block(x, below, cos, sin)
        logits = self.head(self.norm(x))  # [B, T, V]
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class TransformersLlama(nn.Module):
    """The same call on Hugging Face's LlamaForCausalLM, as it comes."""

    def __init__(self, size, length):
        super().__init__()
        import transformers

        self.llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=size.vocab, hidden_size=size.hidden, num_hidden_layers=size.layers,
            num_attention_heads=size.heads, intermediate_size=size.ffn,
            max_position_embeddings=length, use_cache=False, attn_implementation="sdpa"))
        self.embedding = self.llama.get_input_embeddings()

    def forward(self, tokens, targets):
        return self.llama(input_ids=tokens, labels=targets, shift_labels=targets).loss
