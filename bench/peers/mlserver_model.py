"""MLServer: a custom runtime; it speaks the protocol that Triton speaks."""

from __future__ import annotations

import asyncio

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import session


class Classifier(MLModel):
    """Model of this server."""

    async def load(self) -> bool:
        self.session = session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        logits = await asyncio.to_thread(lambda: self.session.run(["logits"], {"images": images})[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])
