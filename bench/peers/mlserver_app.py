"""Start MLServer on a folder that it is given its settings in."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path

from mlserver.cli.serve import load_settings
from mlserver.server import MLServer


async def main(folder: Path) -> None:
    port, workers = int(os.environ["PORT"]), int(os.environ["WORKERS"])
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": workers if workers > 1 else 0,
        "debug": False,
        "grpc_max_message_length": 64 << 20,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "net", "implementation": "mlserver_model.Classifier"}
    if workers > 1:
        model |= {"max_batch_size": 8, "max_batch_time": 0.002}
    (folder / "model-settings.json").write_text(json.dumps(model))
    server_settings, models = await load_settings(str(folder))
    await MLServer(server_settings).start(models)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(Path(scratch)))
