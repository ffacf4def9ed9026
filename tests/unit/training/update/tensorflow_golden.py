"""Make tensorflow_golden.json: 50 updates by TensorFlow itself.

    python tests/unit/training/update/tensorflow_golden.py

The loss is ``sum(gradient * w) + l2 * sum(w^2)``; TensorFlow differentiates it, `RMSPropOptimizer` applies it and
`ExponentialMovingAverage` follows the weights, with a learning rate that changes at each step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_suffix(".json")
STEPS, L2, EMA_DECAY = 50, 4e-5, 0.7
SHAPES = ((3, 2), (4,))


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.RandomState(step)
    # Over six orders of magnitude, so that the epsilon matters in some steps and not in others.
    return [rng.standard_normal(shape) * 10.0 ** rng.randint(-3, 3) for shape in SHAPES]


def rate(step: int) -> float:
    return float(0.1 * (1 + np.cos(step / STEPS * np.pi)) / 2)


def run(epsilon: float) -> dict[str, list[Any]]:
    """Weights and their averages after the last step."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        weights = [v1.get_variable(f"w{i}", initializer=np.full(shape, 0.5)) for i, shape in enumerate(SHAPES)]
        fed = [v1.placeholder(tf.float64, shape) for shape in SHAPES]
        lr, number = v1.placeholder(tf.float64, []), v1.placeholder(tf.float32, [])
        loss = tf.add_n([tf.reduce_sum(g * w) + L2 * tf.reduce_sum(w**2) for g, w in zip(fed, weights, strict=True)])
        optimizer = v1.train.RMSPropOptimizer(lr, decay=0.9, momentum=0.9, epsilon=epsilon)
        average = tf.train.ExponentialMovingAverage(EMA_DECAY, num_updates=number)
        with tf.control_dependencies([optimizer.minimize(loss, var_list=weights)]):
            update = average.apply(weights)
        session.run(v1.global_variables_initializer())
        for step in range(STEPS):
            # The first update is number 1.
            session.run(update, {lr: rate(step), number: step + 1, **dict(zip(fed, gradients(step), strict=True))})
        averages = session.run([average.average(w) for w in weights])
        return {"weights": [w.tolist() for w in session.run(weights)], "averages": [a.tolist() for a in averages]}


if __name__ == "__main__":
    from tensorflow import __version__

    steps = [{"rate": rate(step), "gradients": [g.tolist() for g in gradients(step)]} for step in range(STEPS)]
    golden = {"tensorflow": __version__, "l2": L2, "ema_decay": EMA_DECAY, "steps": steps}
    golden["results"] = {str(epsilon): run(epsilon) for epsilon in (1.0, 1e-3)}
    GOLDEN.write_text(json.dumps(golden) + "\n", encoding="utf-8")
