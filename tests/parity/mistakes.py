"""Plausible mistakes in a model, which the parity checks have to notice."""

from unittest import mock

import torch

import reference_models as reference


def interleaved(rope):
    """The other convention of rotary embeddings: neighbours are rotated against each other."""

    def rotate(x, theta):
        even, odd = torch.arange(0, x.shape[-1], 2), torch.arange(1, x.shape[-1], 2)
        order = torch.cat([even, odd])
        return rope(x[..., order], theta)[..., order.argsort()]

    return rotate


def attend_to_the_future(q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def cross_layer_with(c):
    """CrossLayer.forward with another coefficient c(beta, epsilon)."""

    def forward(self, x, y_below):
        return c(self.beta, self.epsilon) * y_below + reference.LowRank.forward(self, x, y_below)

    return mock.patch.object(reference.CrossLayer, "forward", forward)


def mistakes(case):
    """(what it is, changed config values, a patch of the reference or None) for every mistake."""
    yield "rope of neighbours", {}, mock.patch.object(
        reference, "rope", interleaved(reference.rope))
    yield "attention to the future", {}, mock.patch.object(
        reference, "causal_attention", attend_to_the_future)
    yield "another rope theta", {"rope_theta": 10000.0}, None
    yield "another norm epsilon", {"norm_epsilon": 1e-6}, None
    if case["architecture"] == "crnet":
        yield "another beta epsilon", {"beta_epsilon": 1e-6}, None
        yield "epsilon added whatever the sign", {}, cross_layer_with(
            lambda beta, epsilon: beta + epsilon)
        yield "sign(0) = -1", {}, cross_layer_with(
            lambda beta, epsilon: beta + torch.where(beta <= 0, -1.0, 1.0) * epsilon)
    if case["architecture"] == "cola":
        keep = case.get("cola_mlp_activation", True)
        yield "the other cola_mlp_activation", {"cola_mlp_activation": not keep}, None
