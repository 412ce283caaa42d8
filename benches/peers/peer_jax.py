"""JAX on the CPU as a contender: `jax.jit` over `jax.value_and_grad`, so that XLA sees forward and backward at once.

The last gradient is donated to the call, and XLA writes the new one there: no gradient is allocated.
"""

import cases
import server


def losses():
    import jax
    import jax.numpy as jnp

    def with_logits(x, t):
        """Not as optax writes it, by two log_sigmoids: that took four times as long and three temporaries."""
        return jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))

    def focal(x, t):
        p = jax.nn.sigmoid(x)
        p_t = p * t + (1 - p) * (1 - t)
        return jnp.mean((0.25 * t + 0.75 * (1 - t)) * (1 - p_t) ** 2 * with_logits(x, t))

    def huber(x, t):
        """As optax's huber_loss."""
        error = jnp.abs(x - t)
        quadratic = jnp.minimum(error, 1.0)
        return jnp.mean(0.5 * quadratic**2 + (error - quadratic))

    def dice(x, t):
        """Sums in f32: their square overflows f16 in the gradient."""
        p = jax.nn.sigmoid(x)
        overlap, p, t = (jnp.sum(x, axis=-1, dtype=jnp.float32) for x in (p * t, p, t))
        total = p + t
        return jnp.mean(1.0 - (2.0 * overlap + 1.0) / (total + 1.0))

    def cross_entropy(x, t):
        """As optax's softmax_cross_entropy_with_integer_labels."""
        label = jnp.take_along_axis(x, t[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(x, axis=-1) - label)

    return {
        "mse": lambda x, t: jnp.mean((x - t) ** 2),
        "mae": lambda x, t: jnp.mean(jnp.abs(x - t)),
        "huber[delta=1]": huber,
        "hinge[signed]": lambda x, t: jnp.mean(jnp.maximum(0, 1 - t * x)),
        "bce": lambda x, t: -jnp.mean(t * jnp.log(x) + (1 - t) * jnp.log1p(-x)),
        "bce_with_logits": lambda x, t: jnp.mean(with_logits(x, t)),
        "sigmoid_focal[gamma=2": focal,
        "kl_div": lambda x, t: jnp.mean(t * (jnp.log(t) - x)),
        "gan[NonSaturating+generator]": lambda x, t: jnp.mean(jax.nn.softplus(-x)),
        "dice[sigmoid]": dice,
        "cross_entropy": cross_entropy,
    }


class JaxProblem(server.Problem):
    def __init__(self, loss, dtype, shape, given):
        import jax
        import jax.numpy as jnp

        self.jax = jax
        kind = {"f32": jnp.float32, "f16": jnp.float16, "bf16": jnp.bfloat16}[dtype]
        kinds = cases.LOSSES[loss][:2]
        if given:
            x, t = jnp.array(given[0], kind).reshape(shape), jnp.array(given[1])
            t = t if kinds[1] == "class" else t.astype(kind).reshape(shape)
        else:
            keys = jax.random.split(jax.random.key(7))
            x, t = (draw(which, shape, kind, key) for which, key in zip(kinds, keys))
        self.x, self.t, self.grad = x, t, jnp.zeros_like(x)
        self.jax.block_until_ready((self.x, self.t, self.grad))
        value_of = losses()[loss]

        def both(x, t, buffer):
            value, pull = jax.vjp(lambda x: value_of(x, t), x)
            return value, pull(jnp.asarray(0.5, value.dtype))[0]

        # `keep_unused`: an argument that is not read would be dropped, and its buffer with it.
        self.both = jax.jit(both, donate_argnums=2, keep_unused=True)

    def prepare(self):
        """The last gradient stays: the next call writes over it."""
        self.value = None

    def call(self):
        self.value, self.grad = self.both(self.x, self.t, self.grad)
        self.jax.block_until_ready((self.value, self.grad))

    def results(self):
        return float(self.value), self.grad.astype("float32").reshape(-1).tolist()


def draw(which, shape, kind, key):
    """Random numbers of a kind that `cases.py` lists."""
    import jax
    import jax.numpy as jnp

    if which == "nothing":
        return jnp.zeros(1, kind)
    if which == "class":
        return jax.random.randint(key, shape[:1], 0, shape[1])
    if which in ("hard", "signed"):
        bits = jax.random.bernoulli(key, shape=shape).astype(kind)
        return bits if which == "hard" else 2 * bits - 1
    low, high = {"logit": (-8.0, 8.0), "probability": (0.02, 0.98), "log_probability": (-8.0, -0.02)}[which]
    return jax.random.uniform(key, shape, minval=low, maxval=high).astype(kind)


def hello():
    import os

    import jax

    # XLA makes as many threads as the processors that the process is bound to: the driver's doing.
    threads = len(os.sched_getaffinity(0))
    return {"program": "JAX", "version": jax.__version__, "device": jax.devices()[0].platform, "threads": threads}


if __name__ == "__main__":
    server.serve(hello, JaxProblem)
