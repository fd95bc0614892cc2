"""The actor-critic of appendix B.2 once more, slowly, in numpy and float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def double(tree):
    """Every floating-point array as float64."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def forward(params, x):
    """Two hidden ReLU layers, or any number of them."""
    layers = [params[name] for name in sorted(params)]
    for index, layer in enumerate(layers):
        x = x @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)
        if index < len(layers) - 1:
            x = np.maximum(x, 0.0)
    return x


def backward(params, x, cotangent):
    """Gradient of sum(cotangent * forward) in the parameters, by hand."""
    names = sorted(params)
    inputs, hidden = [], np.asarray(x, np.float64)
    for index, name in enumerate(names):
        inputs.append(hidden)
        hidden = hidden @ np.asarray(params[name]["w"], np.float64) + np.asarray(params[name]["b"])
        if index < len(names) - 1:
            hidden = np.maximum(hidden, 0.0)
    gradient = {}
    for index in range(len(names) - 1, -1, -1):
        gradient[names[index]] = {"w": inputs[index].T @ cotangent, "b": cotangent.sum(0)}
        cotangent = cotangent @ np.asarray(params[names[index]]["w"], np.float64).T
        cotangent = cotangent * (inputs[index] > 0)
    return gradient


def descend(params, gradient, rate, max_norm):
    norm = np.sqrt(sum(np.sum(x**2) for layer in gradient.values() for x in layer.values()))
    if max_norm and norm > max_norm:
        rate = rate * max_norm / norm
    return {
        name: {k: np.asarray(layer[k], np.float64) - rate * gradient[name][k] for k in layer}
        for name, layer in params.items()
    }


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def returns(reward, last_value, discount):
    """G_t = sum_i gamma^i r_{t+i+1} + gamma^n v(s_N), a loop in the paper's notation."""
    length = len(reward)
    out = np.zeros(length)
    for t in range(length):
        n = length - t
        for i in range(n):
            out[t] += discount**i * reward[t + i]
        out[t] += discount**n * last_value
    return out


def policy_loss(policy, rollout, advantage, weight):
    """l_PG + weight * l_EN with l_EN = minus the entropy, means over the rollout."""
    total = 0.0
    pi = softmax(forward(policy, np.asarray(rollout.observation[:-1], np.float64)))
    for t, action in enumerate(np.asarray(rollout.action)):
        entropy = -sum(p * np.log(p) for p in pi[t])
        total += -advantage[t] * np.log(pi[t][action]) - weight * entropy
    return total / len(advantage)


def policy_step(policy, rollout, advantage, weight, rate, max_norm):
    """One clipped SGD step on `policy_loss`."""
    x = np.asarray(rollout.observation[:-1], np.float64)
    pi = softmax(forward(policy, x))
    cotangent = np.zeros_like(pi)
    for t, action in enumerate(np.asarray(rollout.action)):
        entropy = -np.sum(pi[t] * np.log(pi[t]))
        for a in range(pi.shape[1]):
            cotangent[t, a] = -advantage[t] * ((a == action) - pi[t, a])
            cotangent[t, a] -= weight * -pi[t, a] * (np.log(pi[t, a]) + entropy)
    return descend(policy, backward(policy, x, cotangent / len(advantage)), rate, max_norm)


def advantages(critic, rollout, discount):
    value = forward(critic, np.asarray(rollout.observation, np.float64))[:, 0]
    return returns(np.asarray(rollout.reward, np.float64), value[-1], discount) - value[:-1]


def critic_step(critic, rollout, discount, rate, max_norm):
    """Clipped SGD on the mean of (G - v)^2 / 2, G held fixed."""
    error = advantages(critic, rollout, discount)
    x = np.asarray(rollout.observation[:-1], np.float64)
    return descend(critic, backward(critic, x, -error[:, None] / len(error)), rate, max_norm)


def entropy_weight(w, context):
    return 1.0 / (1.0 + np.exp(-forward(w, np.asarray(context, np.float64))[0]))


def kl(p_logits, q_logits):
    """Mean KL(p || q)."""
    p, q = softmax(p_logits), softmax(q_logits)
    return np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=-1))
