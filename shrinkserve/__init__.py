"""Train a compact image classifier, deploy it to NVIDIA Triton, and verify its predictions.

Every command is also a function with the same name and the same options::

    import shrinkserve as ss

    run = ss.train("digits", data="data", out="runs/digits")
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
    "BenchRecord": "shrinkserve.benchmark.report.record:BenchRecord",
    "CapacityPlan": "shrinkserve.benchmark.capacity:CapacityPlan",
    "Client": "shrinkserve.serving.client.client:Client",
    "EvaluationResult": "shrinkserve.training.evaluation:EvaluationResult",
    "ImportResult": "shrinkserve.training.finish:ImportResult",
    "PackReport": "shrinkserve.data.pack:PackReport",
    "Preprocess": "shrinkserve.preprocess:Preprocess",
    "Server": "shrinkserve.serving.server.server:TritonServer",
    "ServerOptions": "shrinkserve.serving.server.options:ServerOptions",
    "SplitInfo": "shrinkserve.data.info:SplitInfo",
    "Stopped": "shrinkserve.training.loop:Stopped",
    "TrainEvent": "shrinkserve.training.events:TrainEvent",
    "TrainResult": "shrinkserve.training.finish:TrainResult",
    "VerifyReport": "shrinkserve.data.verify:VerifyReport",
    "bench": "shrinkserve.benchmark.bench:bench",
    "compare": "shrinkserve.api.artifacts:compare",
    "describe": "shrinkserve.arch.describe:describe",
    "describe_dataset": "shrinkserve.data.info:describe_dataset",
    "doctor": "shrinkserve.serving.doctor:doctor",
    "evaluate": "shrinkserve.training.evaluation:evaluate",
    "export": "shrinkserve.api.exporting:export",
    "import_tensorflow": "shrinkserve.training.tensorflow_import:import_tensorflow",
    "index_dataset": "shrinkserve.data.indexing:index_dataset",
    "inspect": "shrinkserve.api.artifacts:inspect",
    "load": "shrinkserve.api.artifacts:load",
    "load_recipe": "shrinkserve.config:load_recipe",
    "open_dataset": "shrinkserve.data.opening:open_dataset",
    "pack_dataset": "shrinkserve.data.pack:pack_dataset",
    "plan": "shrinkserve.benchmark.planning:plan",
    "plan_training": "shrinkserve.training.plan:plan_training",
    "plot_run": "shrinkserve.training.plot:plot_run",
    "predict": "shrinkserve.api.predict:predict",
    "profile_training": "shrinkserve.training.train:profile_training",
    "publish": "shrinkserve.api.publishing:publish",
    "quickstart": "shrinkserve.api.quickstart:quickstart",
    "rollback": "shrinkserve.api.publishing:rollback",
    "plot_confusion": "shrinkserve.training.plot:plot_confusion",
    "split_dataset": "shrinkserve.data.splitting:split_dataset",
    "train": "shrinkserve.training.train:train",
    "verify_dataset": "shrinkserve.data.verify:verify_dataset",
    "write_digits": "shrinkserve.data.digits:write_digits",
}

if TYPE_CHECKING:
    from shrinkserve import arch, artifact, benchmark, config, data, errors, exporting, runtimes, serving, training
    from shrinkserve.api.artifacts import compare, inspect, load
    from shrinkserve.api.exporting import export
    from shrinkserve.api.predict import predict
    from shrinkserve.api.publishing import publish, rollback
    from shrinkserve.api.quickstart import quickstart
    from shrinkserve.arch.describe import describe
    from shrinkserve.benchmark.bench import bench
    from shrinkserve.benchmark.capacity import CapacityPlan
    from shrinkserve.benchmark.planning import plan
    from shrinkserve.benchmark.report.record import BenchRecord
    from shrinkserve.config import load_recipe
    from shrinkserve.data.digits import write_digits
    from shrinkserve.data.indexing import index_dataset
    from shrinkserve.data.info import SplitInfo, describe_dataset
    from shrinkserve.data.opening import open_dataset
    from shrinkserve.data.pack import PackReport, pack_dataset
    from shrinkserve.data.splitting import split_dataset
    from shrinkserve.data.verify import VerifyReport, verify_dataset
    from shrinkserve.preprocess import Preprocess
    from shrinkserve.serving.client.async_client import AsyncClient
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.doctor import doctor
    from shrinkserve.serving.server.options import ServerOptions
    from shrinkserve.serving.server.server import TritonServer as Server
    from shrinkserve.training.evaluation import EvaluationResult, evaluate
    from shrinkserve.training.events import TrainEvent
    from shrinkserve.training.finish import ImportResult, TrainResult
    from shrinkserve.training.loop import Stopped
    from shrinkserve.training.plan import plan_training
    from shrinkserve.training.plot import plot_confusion, plot_run
    from shrinkserve.training.tensorflow_import import import_tensorflow
    from shrinkserve.training.train import profile_training, train

__all__ = [
    "AsyncClient",
    "BenchRecord",
    "CapacityPlan",
    "Client",
    "EvaluationResult",
    "ImportResult",
    "PackReport",
    "Preprocess",
    "Server",
    "ServerOptions",
    "SplitInfo",
    "Stopped",
    "TrainEvent",
    "TrainResult",
    "VerifyReport",
    "__version__",
    "arch",
    "artifact",
    "bench",
    "benchmark",
    "compare",
    "config",
    "data",
    "describe",
    "describe_dataset",
    "doctor",
    "errors",
    "evaluate",
    "export",
    "exporting",
    "import_tensorflow",
    "index_dataset",
    "inspect",
    "load",
    "load_recipe",
    "open_dataset",
    "pack_dataset",
    "plan",
    "plan_training",
    "plot_confusion",
    "plot_run",
    "predict",
    "profile_training",
    "publish",
    "quickstart",
    "rollback",
    "runtimes",
    "serving",
    "split_dataset",
    "train",
    "training",
    "verify_dataset",
    "write_digits",
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
