"""LitServe: images as base64 in JSON, logits as base64; it reads annotations, so `decode_request` has none."""

import base64
import os
from typing import Any

import litserve
import numpy as np
from session import session


class Classifier(litserve.LitAPI):
    """Model of this server."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.session = session()

    def decode_request(self, request) -> np.ndarray:
        return np.frombuffer(base64.b64decode(request["images"]), np.uint8).reshape(request["shape"])

    def predict(self, images: Any) -> Any:
        if isinstance(images, list):  # a batch of requests
            logits = self.session.run(["logits"], {"images": np.concatenate(images)})[0]
            return np.split(logits, np.cumsum([len(one) for one in images])[:-1])
        return self.session.run(["logits"], {"images": images})[0]

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs  # requests may have several rows; `predict` concatenates them

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"logits": base64.b64encode(output.tobytes()).decode(), "shape": output.shape}


if __name__ == "__main__":
    batched = {"max_batch_size": 4, "batch_timeout": 0.002} if int(os.environ["WORKERS"]) > 1 else {}
    server = litserve.LitServer(
        Classifier(**batched), accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]), timeout=60
    )
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, log_level="error", generate_client_file=False
    )
