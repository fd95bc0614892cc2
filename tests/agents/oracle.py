"""Slow oracle of BMG's section 5.2 and appendix C: numpy, float64, loops, the paper's notation.

No automatic differentiation: gradients of the losses are written out by hand, meta-gradients are
taken by finite differences of `meta_loss`. Parameters are Haiku's dictionaries of an "mlp"
network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """A batch of rollouts tau."""

    s: np.ndarray  # [B, T + 1, D] stacked observations, flat
    a: np.ndarray  # int [B, T]
    r: np.ndarray  # [B, T]
    discount: np.ndarray  # [B, T] 0 at an episode's end
    reset: np.ndarray  # bool [B, T] the action did nothing
    nu: np.ndarray  # [B, T, A] logits of the behaviour policy
    is_replay: np.ndarray  # bool [B]


class Hyper(NamedTuple):
    """Hyper-parameters of one task's loss, in the paper's order."""

    gamma: float
    lambda_: float
    alpha: float
    e_pg: float
    e_en: float
    e_td: float


class Fixed(NamedTuple):
    """What no task learns."""

    rho_bar: float = 1.0
    c_bar: float = 1.0
    max_entropy: float = 0.9
    threshold: float = 2.0
    advantage: str = "target"
    reduction: str = "mean"


class Rms(NamedTuple):
    """Clip by global norm, then RMSProp."""

    rate: float
    decay: float
    epsilon: float
    max_norm: float
    epsilon_in_root: bool = True


def softmax(logits):
    e = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def kl(p, q):
    """KL(p || q) of probabilities [..., A] -> [...]."""
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def leaky_vtrace(v, r, gamma, eta, accept, lambda_, alpha, rho_bar=1.0, c_bar=1.0):
    """(G_t - v_t, rho_t) by appendix C's double sum; gamma^i is a product of per-step discounts.

    v is [T + 1], everything else [T]; states that LASER rejects have rho = c = 0.
    """
    num_steps = len(r)
    rho = [
        accept[t] * (alpha * min(eta[t], rho_bar) + (1 - alpha) * eta[t]) for t in range(num_steps)
    ]
    c = [
        accept[t] * lambda_ * (alpha * min(eta[t], c_bar) + (1 - alpha) * eta[t])
        for t in range(num_steps)
    ]
    delta = [rho[t] * (gamma[t] * v[t + 1] + r[t] - v[t]) for t in range(num_steps)]
    errors = []
    for t in range(num_steps):
        total = 0.0
        for i in range(num_steps - t):
            weight = 1.0
            for j in range(i):
                weight *= gamma[t + j] * c[t + j]
            total += weight * delta[t + i]
        errors.append(total)
    return np.array(errors), np.array(rho)


def relevance(pi, mu, rho_clip=1.0):
    """LASER's KL between pi and the policy ~ min(rho_clip mu, pi) of V-trace; [A], [A] -> []."""
    implicit = np.minimum(rho_clip * mu, pi)
    return kl(pi, implicit / np.sum(implicit))


def prediction_gradient(logits, v, hyper: Hyper, tau: Data, fixed: Fixed):
    """Gradient of one rollout's summed loss (Eq. 4) in logits [T + 1, A] and values [T + 1].

    Everything but log pi, the entropy and the value error's own v is a constant.
    """
    num_steps, num_actions = tau.nu.shape
    pi, mu = softmax(logits), softmax(tau.nu)
    eta = np.array([pi[t, tau.a[t]] / mu[t, tau.a[t]] for t in range(num_steps)])
    accept = np.ones(num_steps)
    if tau.is_replay:
        for t in range(num_steps):
            accept[t] = float(relevance(pi[t], mu[t]) < fixed.threshold)
    accept[tau.reset] = 0.0
    gamma = hyper.gamma * tau.discount
    error, rho = leaky_vtrace(
        v, tau.r, gamma, eta, accept, hyper.lambda_, hyper.alpha, fixed.rho_bar, fixed.c_bar
    )
    d_logits, d_v = np.zeros_like(logits), np.zeros_like(v)
    for t in range(num_steps):
        advantage = error[t]
        if fixed.advantage == "one_step":
            target_next = v[t + 1] + (error[t + 1] if t + 1 < num_steps else 0.0)
            advantage = tau.r[t] + gamma[t] * target_next - v[t]
        one_hot = np.eye(num_actions)[tau.a[t]]
        d_logits[t] -= hyper.e_pg * rho[t] * advantage * (one_hot - pi[t])
        entropy = -np.sum(pi[t] * np.log(pi[t]))
        if entropy < fixed.max_entropy * np.log(num_actions):
            d_logits[t] += hyper.e_en * accept[t] * pi[t] * (np.log(pi[t]) + entropy)
        d_v[t] -= hyper.e_td * accept[t] * error[t]
    return d_logits, d_v


def heads(params, task):
    """Names of the linear layers of a task's policy and value MLP."""
    names = {}
    for kind in ("policy", "value"):
        prefix = f"task_{task}/{kind}/"
        names[kind] = sorted(name for name in params if name.startswith(prefix))
        assert names[kind]
    return names


def mlp(params, names, x):
    """Output and the inputs of each layer."""
    inputs = []
    for index, name in enumerate(names):
        inputs.append(x)
        x = x @ params[name]["w"] + params[name]["b"]
        if index + 1 < len(names):
            x = np.maximum(x, 0.0)
    return x, inputs


def mlp_backward(params, names, inputs, d_x, gradient):
    """Adds the layers' gradients to `gradient`; returns the gradient of the input."""
    for index in reversed(range(len(names))):
        name = names[index]
        gradient[name]["w"] += inputs[index].T @ d_x
        gradient[name]["b"] += d_x.sum(axis=0)
        d_x = d_x @ params[name]["w"].T
        if index > 0:
            d_x = d_x * (inputs[index] > 0)
    return d_x


def torso(params, s):
    return np.maximum(s @ params["torso/projection"]["w"] + params["torso/projection"]["b"], 0.0)


def predict(params, s, task=0):
    """Logits [..., A] and values [...] of one task at observations [..., D]."""
    m, names = torso(params, s), heads(params, task)
    logits, _ = mlp(params, names["policy"], m)
    v, _ = mlp(params, names["value"], m)
    return logits, v[..., 0]


def gradient(params, hypers: list[Hyper], tau: Data, fixed: Fixed):
    """Semi-gradient of the sum of the tasks' losses over a batch, like `params`."""
    result = {n: {k: np.zeros_like(x) for k, x in layer.items()} for n, layer in params.items()}
    num_sequences, length, size = tau.s.shape
    s = tau.s.reshape(-1, size)
    m = torso(params, s)
    d_m = np.zeros_like(m)
    for task, hyper in enumerate(hypers):
        names = heads(params, task)
        logits, policy_inputs = mlp(params, names["policy"], m)
        values, value_inputs = mlp(params, names["value"], m)
        d_logits = np.zeros((num_sequences, length, logits.shape[-1]))
        d_values = np.zeros((num_sequences, length))
        for b in range(num_sequences):
            rows = slice(b * length, (b + 1) * length)
            d_logits[b], d_values[b] = prediction_gradient(
                logits[rows], values[rows, 0], hyper, Data(*(x[b] for x in tau)), fixed
            )
        if fixed.reduction == "mean":
            d_logits, d_values = d_logits / tau.a.size, d_values / tau.a.size
        d_m += mlp_backward(
            params, names["policy"], policy_inputs, d_logits.reshape(logits.shape), result
        )
        d_m += mlp_backward(params, names["value"], value_inputs, d_values.reshape(-1, 1), result)
    d_m = d_m * (m > 0)
    result["torso/projection"]["w"] += s.T @ d_m
    result["torso/projection"]["b"] += d_m.sum(axis=0)
    return result


def outer_value(params, p: Hyper, tau: Data, constants, fixed: Fixed):
    """f_tau(u_0; p) of the main task with targets and ratios from parameters `constants`."""
    total = 0.0
    for b in range(len(tau.a)):
        one = Data(*(x[b] for x in tau))
        num_steps = len(one.a)
        logits_bar, v_bar = predict(constants, one.s)
        pi_bar, mu = softmax(logits_bar), softmax(one.nu)
        eta = [pi_bar[t, one.a[t]] / mu[t, one.a[t]] for t in range(num_steps)]
        accept = [
            float(not one.is_replay or relevance(pi_bar[t], mu[t]) < fixed.threshold)
            * (not one.reset[t])
            for t in range(num_steps)
        ]
        error, rho = leaky_vtrace(
            v_bar, one.r, p.gamma * one.discount, eta, accept, p.lambda_, p.alpha
        )
        logits, v = predict(params, one.s)
        for t in range(num_steps):
            pi = softmax(logits[t])
            entropy = -np.sum(pi * np.log(pi))
            total -= p.e_pg * rho[t] * np.log(pi[one.a[t]]) * error[t]
            total -= p.e_en * accept[t] * min(entropy, fixed.max_entropy * np.log(len(pi)))
            total += p.e_td * accept[t] * 0.5 * (v_bar[t] + error[t] - v[t]) ** 2
    return total / tau.a.size if fixed.reduction == "mean" else total


def global_norm(tree):
    return np.sqrt(sum(np.sum(x**2) for layer in tree.values() for x in layer.values()))


def rms_step(params, second, g, rms: Rms):
    """(u, h) after one clipped RMSProp step."""
    norm = global_norm(g)
    scale = rms.max_norm / norm if norm > rms.max_norm else 1.0
    new_params, new_second = {}, {}
    for name, layer in params.items():
        new_params[name], new_second[name] = {}, {}
        for k, x in layer.items():
            clipped = g[name][k] * scale
            h = rms.decay * second[name][k] + (1 - rms.decay) * clipped**2
            root = np.sqrt(h + rms.epsilon) if rms.epsilon_in_root else np.sqrt(h) + rms.epsilon
            new_params[name][k] = x - rms.rate * clipped / root
            new_second[name][k] = h
    return new_params, new_second


def sgd_step(params, g, rate):
    return {n: {k: x - rate * g[n][k] for k, x in layer.items()} for n, layer in params.items()}


def learned(w, p: Hyper) -> list[Hyper]:
    """Hyper-parameters of each task from logits w [n, 6]: sigmoids, costs times the outer cost."""
    outer = np.array([1.0, 1.0, 1.0, p.e_pg, p.e_en, p.e_td])
    return [Hyper(*(sigmoid(w_i) * outer)) for w_i in w]


def unroll(params, second, hypers, batches, fixed, rms):
    """Parameters and second moments after one agent step on each batch."""
    for tau in batches:
        params, second = rms_step(params, second, gradient(params, hypers, tau, fixed), rms)
    return params, second


def main_parameters(params):
    """u_0 = (m, x_0, z_0), flat."""
    names = ["torso/projection", *heads(params, 0)["policy"], *heads(params, 0)["value"]]
    return np.concatenate([params[n][k].ravel() for n in names for k in sorted(params[n])])


def match(name, target, params, tau: Data, weight=0.25, reduction="mean"):
    """mu(target, u_0) over all states of tau."""
    (logits_t, v_t), (logits, v) = predict(target, tau.s), predict(params, tau.s)
    forward = np.mean(kl(softmax(logits_t), softmax(logits)))
    reverse = np.mean(kl(softmax(logits), softmax(logits_t)))
    error = np.mean((v_t - v) ** 2)
    if reduction == "sum":
        forward, reverse, error = (v.size * x for x in (forward, reverse, error))
    return {
        "kl": forward,
        "reverse_kl": reverse,
        "symmetric_kl": forward + reverse,
        "value": error,
        "kl_value": forward + weight * error,
        "l2": np.sum((main_parameters(target) - main_parameters(params)) ** 2),
        "l2_norm": np.linalg.norm(main_parameters(target) - main_parameters(params)),
    }[name]


def join(*batches: Data) -> Data:
    return Data(*(np.concatenate(x) for x in zip(*batches)))


def finite_differences(function, x, epsilon=1e-4):
    """Central differences of a scalar function in each entry of x, to fourth order."""
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        e = np.zeros_like(x)
        e[index] = epsilon
        near = function(x + e) - function(x - e)
        far = function(x + 2 * e) - function(x - 2 * e)
        result[index] = (8 * near - far) / (12 * epsilon)
    return result
