"""Step sizes of a linear regression, meta-learned while it runs: python examples/step_sizes.py"""

import jax
import jax.numpy as jnp
import optax

from bmg.meta import core, matching, objectives

SCALES = jnp.array([10.0, 3.0, 1.0, 0.3])  # of the inputs: each needs a step size of its own


def loss(params, batch):
    return 0.5 * jnp.mean((batch @ params - batch @ (1.0 / SCALES)) ** 2)


def step(log_step_sizes, params, batch, key):  # the learner's update
    return params - jnp.exp(log_step_sizes) * jax.grad(loss)(params, batch), ()


def objective_of(name):
    if name == "ordinary":
        return objectives.final_value(lambda params, batch, key: (loss(params, batch.final), {}))
    return objectives.bootstrapped(  # two more steps are the target of the first
        step, step, lambda params, batch: matching.Outputs(None, params=params),
        matching.squared_l2, num_target_steps=2,
    )  # fmt: skip


def train(name, updates=500):
    """The loss at the end, and the step sizes [4]."""
    adam = optax.adam(0.03)
    meta_gradient = core.meta_gradient(core.online_start, step, objective_of(name))

    def update(carry, key):
        meta_params, opt_state, params = carry
        own, target, final = SCALES * jax.random.normal(key, (3, 32, 4))
        batch = objectives.BootstrapBatch((target,), final)
        result = meta_gradient(meta_params, params, (own,), batch, key)
        change, opt_state = adam.update(result.gradient, opt_state)
        return (meta_params + change, opt_state, result.next_state), loss(params, own)

    meta_params = jnp.full(4, jnp.log(1e-3))
    start = (meta_params, adam.init(meta_params), jnp.zeros(4))
    keys = jax.random.split(jax.random.PRNGKey(0), updates)
    (meta_params, *_), losses = jax.lax.scan(update, start, keys)
    return losses[-1], jnp.exp(meta_params)


if __name__ == "__main__":
    for name in ("ordinary", "bootstrapped"):
        last_loss, step_sizes = train(name)
        print(f"{name}: loss {last_loss:.1e}, step sizes {step_sizes}")
