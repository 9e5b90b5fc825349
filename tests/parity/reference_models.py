"""LLaMA, CR-Net and CoLA written once more, plainly, from the equations: the other side of parity.

Nothing here comes from crnet's sources, and nothing is fused. A model is built from its weights (a
dict of tensors named as in the files), so that every low rank r is read off a shape and a name that
is missing, or left over, is an error. Runs in the dtype of the weights; fp64 is the yardstick.

Shapes: B batch, T sequence, C hidden, H heads, D head size, F MLP width, R low rank, V vocabulary.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


@dataclasses.dataclass
class Config:
    """The fields of crnet::ModelConfig that change the function; the shapes are in the weights."""

    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int = 0
    beta_epsilon: float = 1e-6
    cola_mlp_activation: bool = True
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-6
    tie_embeddings: bool = False
    low_rank_first_block: bool = False

    @classmethod
    def from_dict(cls, values):
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def kv_heads(self):
        return self.num_kv_heads or self.num_heads


class Weights:
    """Hands out tensors by name and remembers which ones nobody asked for."""

    def __init__(self, tensors, dtype):
        self.left = {name: tensor.to(dtype) for name, tensor in tensors.items()}

    def take(self, name):
        if name not in self.left:
            raise KeyError(f"expected the tensor {name}, the file has none of this name")
        return nn.Parameter(self.left.pop(name).clone())

    def finish(self):
        if self.left:
            raise KeyError(f"tensors that the model has no place for: {sorted(self.left)}")


class FullRank(nn.Module):
    """Y = X W, stored as weight [out, in]."""

    def __init__(self, weights, name):
        super().__init__()
        self.weight = weights.take(f"{name}.weight")

    def forward(self, x, y_below):
        return x @ self.weight.T


class LowRank(nn.Module):
    """Y = X A B: CR-Net's first block when it is low rank."""

    def __init__(self, weights, name):
        super().__init__()
        self.A = weights.take(f"{name}.A")  # [in, R]
        self.B = weights.take(f"{name}.B")  # [R, out]

    def forward(self, x, y_below):
        return (x @ self.A) @ self.B


class CrossLayer(LowRank):
    """Y_l = c Y_{l-1} + X A B with c = sign(beta)(|beta| + epsilon), sign(0) = +1."""

    def __init__(self, weights, name, epsilon):
        super().__init__(weights, name)
        self.beta = weights.take(f"{name}.beta")  # []
        self.epsilon = epsilon

    def forward(self, x, y_below):
        # sign(beta)|beta| is beta; writing it so keeps dc/dbeta = 1 at beta = 0 as well.
        sign = torch.where(self.beta < 0, -1.0, 1.0).to(self.beta.dtype)
        c = self.beta + sign * self.epsilon
        return c * y_below + super().forward(x, y_below)


class CoLA(LowRank):
    """Y = SiLU(X A) B."""

    def forward(self, x, y_below):
        return F.silu(x @ self.A) @ self.B


def make_projection(config, weights, layer, name):
    if config.architecture == "cola":
        return CoLA(weights, name)
    if config.architecture == "llama":
        return FullRank(weights, name)
    if layer > 0:
        return CrossLayer(weights, name, config.beta_epsilon)
    return LowRank(weights, name) if config.low_rank_first_block else FullRank(weights, name)


class RMSNorm(nn.Module):
    def __init__(self, weights, name, epsilon):
        super().__init__()
        self.weight = weights.take(f"{name}.weight")
        self.epsilon = epsilon

    def forward(self, x):
        mean_square = x.square().mean(dim=-1, keepdim=True)
        return x / torch.sqrt(mean_square + self.epsilon) * self.weight


def rope(x, theta):
    """Rotary position embedding of x [B, H, T, D], halves rotated against each other."""
    length, size = x.shape[-2:]
    frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)  # [T, D/2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def causal_attention(q, k, v):
    """softmax(q k^T / sqrt(D), positions <= own) v, for q, k, v [B, H, T, D]."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # [B, H, T, T]
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


class Group(nn.Module):
    """The projections of one half of a block, under the names that files give them."""

    def __init__(self, config, weights, layer, half):
        super().__init__()
        for name in PROJECTIONS[half]:
            full_name = f"model.layers.{layer}.{half}.{name}"
            setattr(self, name, make_projection(config, weights, layer, full_name))


class Block(nn.Module):
    def __init__(self, config, weights, layer):
        super().__init__()
        self.config = config
        prefix = f"model.layers.{layer}"
        self.input_layernorm = RMSNorm(weights, f"{prefix}.input_layernorm", config.norm_epsilon)
        self.self_attn = Group(config, weights, layer, "self_attn")
        self.post_attention_layernorm = RMSNorm(
            weights, f"{prefix}.post_attention_layernorm", config.norm_epsilon
        )
        self.mlp = Group(config, weights, layer, "mlp")

    def forward(self, x, below):
        """x [B, T, C] and the seven outputs of the block below -> the same two of this block."""
        y = {}

        def project(half, name, inputs):
            y[name] = getattr(getattr(self, half), name)(inputs, below.get(name))
            return y[name]

        normed = self.input_layernorm(x)
        q, k, v = (project("self_attn", name, normed) for name in ("q_proj", "k_proj", "v_proj"))
        x = x + project("self_attn", "o_proj", self.attend(q, k, v))
        normed = self.post_attention_layernorm(x)
        gate, up = (project("mlp", name, normed) for name in ("gate_proj", "up_proj"))
        keep_silu = self.config.architecture != "cola" or self.config.cola_mlp_activation
        x = x + project("mlp", "down_proj", (F.silu(gate) if keep_silu else gate) * up)
        return x, y

    def attend(self, q, k, v):
        heads, kv_heads = self.config.num_heads, self.config.kv_heads
        batch, length, width = q.shape

        def split(tensor, count):  # [B, T, H D] -> [B, H, T, D]
            return tensor.view(batch, length, count, width // heads).transpose(1, 2)

        q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
        q, k = rope(q, self.config.rope_theta), rope(k, self.config.rope_theta)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
        return causal_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)


class Embedding(nn.Module):
    def __init__(self, weights, name):
        super().__init__()
        self.weight = weights.take(f"{name}.weight")


class Body(nn.Module):
    def __init__(self, config, weights):
        super().__init__()
        self.embed_tokens = Embedding(weights, "model.embed_tokens")
        self.layers = nn.ModuleList(
            Block(config, weights, layer) for layer in range(config.num_layers)
        )
        self.norm = RMSNorm(weights, "model.norm", config.norm_epsilon)

    def forward(self, tokens):
        x, y = self.embed_tokens.weight[tokens], {}
        for layer in self.layers:
            x, y = layer(x, y)
        return self.norm(x)


class ReferenceModel(nn.Module):
    """tokens [B, T] -> logits [B, T, V]. Its named_parameters() are the names in the file."""

    def __init__(self, config, tensors, dtype=torch.float64):
        super().__init__()
        weights = Weights(tensors, dtype)
        self.model = Body(config, weights)
        self.lm_head = None if config.tie_embeddings else Embedding(weights, "lm_head")
        weights.finish()

    def forward(self, tokens):
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return self.model(tokens) @ head.weight.T


def mean_cross_entropy(logits, targets):
    """Mean of -log softmax(logits)[target] over the targets that are not -100."""
    kept = targets.flatten() != -100
    log_probability = logits.flatten(0, 1).log_softmax(dim=-1)[kept]
    return -log_probability.gather(1, targets.flatten()[kept].unsqueeze(1)).mean()
