"""The losses that are compared: their shapes, the numbers that they are given, and what they should answer.

The definitions are plain Python in f64, so that the driver and its test need nothing but the standard library.
"""

import math
import random

ELEMENTS = 1 << 24
REGIONS = (4, 4, 1 << 20)
ROWS_CLASSES = [(16384, 1000), (2048, 8192), (512, 32768), (128, 131072)]
DTYPES = ("f32", "bf16", "f16")


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def huber(x, t):
    d = abs(x - t)
    return 0.5 * d * d if d <= 1.0 else d - 0.5


def focal(x, t):
    """torchvision's sigmoid_focal_loss with its defaults: alpha 0.25, gamma 2."""
    p = sigmoid(x)
    p_t = p * t + (1.0 - p) * (1.0 - t)
    alpha_t = 0.25 * t + 0.75 * (1.0 - t)
    return alpha_t * (1.0 - p_t) ** 2 * (softplus(x) - x * t)


def mean_of(of_element):
    def value(x, t, shape):
        return sum(map(of_element, x, t)) / len(x)

    return value


def dice(x, t, shape):
    """1 - Dice with smoothing 1 above and below, the mean over regions; a region is the last axis."""
    size, losses = shape[-1], []
    for start in range(0, len(x), size):
        p, q = [sigmoid(x) for x in x[start : start + size]], t[start : start + size]
        overlap = sum(p * q for p, q in zip(p, q))
        losses.append(1.0 - (2.0 * overlap + 1.0) / (sum(p) + sum(q) + 1.0))
    return sum(losses) / len(losses)


def cross_entropy(x, t, shape):
    rows, classes = shape
    losses = []
    for row in range(rows):
        z = x[row * classes : (row + 1) * classes]
        largest = max(z)
        losses.append(largest + math.log(sum(math.exp(z - largest) for z in z)) - z[t[row]])
    return sum(losses) / rows


# Of each loss, by the name that fused-loss's table gives it: what its input is, what its target is, its definition.
#   logit: in (-8, 8); probability: in (0.02, 0.98); log_probability: in (-8, 0)
#   hard: 0 or 1; signed: -1 or 1; class: an index
LOSSES = {
    "mse": ("logit", "logit", mean_of(lambda x, t: (x - t) ** 2)),
    "mae": ("logit", "logit", mean_of(lambda x, t: abs(x - t))),
    "huber[delta=1]": ("logit", "logit", mean_of(huber)),
    "hinge[signed]": ("logit", "signed", mean_of(lambda x, t: max(0.0, 1.0 - t * x))),
    "bce": ("probability", "hard", mean_of(lambda x, t: -math.log(x) if t else -math.log1p(-x))),
    "bce_with_logits": ("logit", "hard", mean_of(lambda x, t: softplus(x) - x * t)),
    "sigmoid_focal[gamma=2": ("logit", "hard", mean_of(focal)),
    "kl_div": ("log_probability", "probability", mean_of(lambda x, t: t * (math.log(t) - x))),
    "gan[NonSaturating+generator]": ("logit", "nothing", mean_of(lambda x, _: softplus(-x))),
    "dice[sigmoid]": ("logit", "hard", dice),
    "cross_entropy": ("logit", "class", cross_entropy),
}


def family(loss):
    """How the shape of a loss is written: elements, regions or rows."""
    return {"dice[sigmoid]": "regions", "cross_entropy": "rows"}.get(loss, "elements")


def shapes(loss, sizes=()):
    """The shapes that a loss is timed at; `sizes` are (elements,) or (rows, classes) and bind what they fit."""
    elements = [size[0] for size in sizes if len(size) == 1]
    rows = [size for size in sizes if len(size) == 2]
    if family(loss) == "rows":
        return rows or ROWS_CLASSES
    if family(loss) == "regions":
        return [(4, 4, max(1, n // 16)) for n in elements] or [REGIONS]
    return [(n,) for n in elements] or [(ELEMENTS,)]


def check_problem(loss):
    """A small problem: shape, input and target. All numbers are exact in bf16 too, so that every contender and the
    definition see the same; inputs and targets lie half a step apart, clear of kinks."""
    rng = random.Random(7)
    shape = {"elements": (4096,), "regions": (2, 2, 1024), "rows": (16, 256)}[family(loss)]
    draw = {
        "logit": lambda: rng.randrange(-127, 127) / 16.0,
        "probability": lambda: rng.randrange(2, 63) / 64.0,
        "log_probability": lambda: -rng.randrange(1, 127) / 16.0,
        "hard": lambda: float(rng.randrange(2)),
        "signed": lambda: rng.choice([-1.0, 1.0]),
        "class": lambda: rng.randrange(shape[1]),
        "nothing": lambda: 0.0,
    }
    input_kind, target_kind, _ = LOSSES[loss]
    elements = math.prod(shape)
    aside = 1 / 32 if input_kind == "logit" else 0.0
    x = [draw[input_kind]() + aside for _ in range(elements)]
    t = [draw[target_kind]() for _ in range(shape[0] if target_kind == "class" else elements)]
    return shape, x, t


# How far value and gradient may be off, relatively. It tells another computation from rounding: contenders that round
# every intermediate to a half type are allowed to.
TOLERANCE = {"f32": (1e-4, 1e-3), "bf16": (0.03, 0.05), "f16": (0.03, 0.05)}


def wrong(loss, dtype, value, grad):
    """What is wrong with a contender's answer to the small problem, or None. The gradient, for an upstream gradient
    of 0.5, is compared with a difference quotient along a random direction."""
    shape, x, t = check_problem(loss)
    define = LOSSES[loss][2]
    value_tolerance, grad_tolerance = TOLERANCE[dtype]
    value, grad = float(value), [float(g) for g in grad]
    want = define(x, t, shape)
    if not abs(value - want) <= value_tolerance * abs(want):
        return f"wrong value: {value:.6g} where the definition says {want:.6g}"
    if len(grad) != len(x):
        return f"a gradient of {len(grad)} elements for {len(x)}"
    rng = random.Random(8)
    direction = [rng.choice([-1.0, 1.0]) for _ in x]
    step = 1e-5
    up = define([x + step * d for x, d in zip(x, direction)], t, shape)
    down = define([x - step * d for x, d in zip(x, direction)], t, shape)
    slope = 0.5 * (up - down) / (2.0 * step)
    got = sum(g * d for g, d in zip(grad, direction))
    norm = math.sqrt(sum(g * g for g in grad))
    if not (abs(got - slope) <= grad_tolerance * norm and norm > 0.0):
        return f"wrong gradient: a slope of {got:.6g} where the definition says {slope:.6g}"
    return None
