"""PyTriton's Python API: a real tritonserver that calls back into this process and its workers."""

from __future__ import annotations

import os

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from session import session, shapes


class Classifier:
    """Model of this server."""

    def __init__(self) -> None:
        self.session = session()

    @batch
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": self.session.run(["logits"], {"images": images})[0]}


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    image, logits = shapes()
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port + 1, grpc_address="127.0.0.1", grpc_port=port, allow_metrics=False
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="net",
            infer_func=[Classifier() for _ in range(int(os.environ["WORKERS"]))],
            inputs=[Tensor(name="images", dtype=np.uint8, shape=image)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=logits)],
            config=ModelConfig(batching=True, max_batch_size=4, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
