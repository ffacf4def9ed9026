"""Train a compact image classifier, deploy it to NVIDIA Triton, and verify its predictions.

Every command is also a function with the same name and the same options::

    import shrinkserve as ss

    card = ss.train("digits", data="data", out="runs/digits")
    with ss.Client("grpc://127.0.0.1:8001") as client:
        print(client.classify(["a.jpg"]))

Names and submodules load on first use: ``import shrinkserve`` imports no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> module and the name there. The imports below repeat it for type checkers; a test compares them.
_PUBLIC = {
    "AsyncClient": "shrinkserve.serving.client.async_client:AsyncClient",
    "Client": "shrinkserve.serving.client.client:Client",
    "Server": "shrinkserve.serving.server.server:TritonServer",
    "ServerOptions": "shrinkserve.serving.server.options:ServerOptions",
    "bench": "shrinkserve.benchmark.bench:bench",
    "describe": "shrinkserve.arch.describe:describe",
    "doctor": "shrinkserve.serving.doctor:doctor",
    "load": "shrinkserve.runtimes.opening:open_artifact",
    "load_recipe": "shrinkserve.config:load_recipe",
    "open_dataset": "shrinkserve.data.opening:open_dataset",
    "plan": "shrinkserve.benchmark.planning:plan",
    "predict": "shrinkserve.api.predict:predict",
    "publish": "shrinkserve.api.repository:publish",
    "quickstart": "shrinkserve.api.quickstart:quickstart",
    "rollback": "shrinkserve.api.repository:rollback",
    "train": "shrinkserve.training.loop:train",
}

if TYPE_CHECKING:
    from shrinkserve import arch, artifact, benchmark, config, data, errors, exporting, runtimes, serving, training
    from shrinkserve.api.predict import predict
    from shrinkserve.api.quickstart import quickstart
    from shrinkserve.api.repository import publish, rollback
    from shrinkserve.arch.describe import describe
    from shrinkserve.benchmark.bench import bench
    from shrinkserve.benchmark.planning import plan
    from shrinkserve.config import load_recipe
    from shrinkserve.data.opening import open_dataset
    from shrinkserve.runtimes.opening import open_artifact as load
    from shrinkserve.serving.client.async_client import AsyncClient
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.doctor import doctor
    from shrinkserve.serving.server.options import ServerOptions
    from shrinkserve.serving.server.server import TritonServer as Server
    from shrinkserve.training.loop import train

__all__ = [
    "AsyncClient",
    "Client",
    "Server",
    "ServerOptions",
    "__version__",
    "arch",
    "artifact",
    "bench",
    "benchmark",
    "config",
    "data",
    "describe",
    "doctor",
    "errors",
    "exporting",
    "load",
    "load_recipe",
    "open_dataset",
    "plan",
    "predict",
    "publish",
    "quickstart",
    "rollback",
    "runtimes",
    "serving",
    "train",
    "training",
]

if not TYPE_CHECKING:  # type checkers would take every name for known

    def __getattr__(name):
        from importlib import import_module

        if name in _PUBLIC:
            module, _, attribute = _PUBLIC[name].partition(":")
            return globals().setdefault(name, getattr(import_module(module), attribute))
        if name in __all__:
            return import_module(f"shrinkserve.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
