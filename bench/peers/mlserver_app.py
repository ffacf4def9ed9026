"""Start MLServer, through its own command, on a folder that it is given its settings in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    port, workers = int(os.environ["PORT"]), int(os.environ["WORKERS"])
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": workers if workers > 1 else 0,
        "debug": False,
    }
    model = {"name": "net", "implementation": "mlserver_model.Classifier"}
    if workers > 1:
        model |= {"max_batch_size": 4, "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", str(folder)])
