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
    "Card": "shrinkserve.artifact:Card",
    "ClassifyResult": "shrinkserve.serving.client.prediction:ClassifyResult",
    "Cleanup": "shrinkserve.api.maintenance:Cleanup",
    "Client": "shrinkserve.serving.client.client:Client",
    "Counts": "shrinkserve.arch.counts:Counts",
    "Dataset": "shrinkserve.data.dataset:Dataset",
    "EvaluationResult": "shrinkserve.training.evaluation:EvaluationResult",
    "EventKind": "shrinkserve.training.events:EventKind",
    "ExportResult": "shrinkserve.api.destination:ExportResult",
    "Finding": "shrinkserve.serving.doctor.finding:Finding",
    "ImportResult": "shrinkserve.training.run_folder.result:ImportResult",
    "InferRequest": "shrinkserve.serving.client.operations:InferRequest",
    "InferResult": "shrinkserve.serving.client.operations:InferResult",
    "ModelInfo": "shrinkserve.serving.client.model_info:ModelInfo",
    "ModelStatistics": "shrinkserve.serving.client.operations:ModelStatistics",
    "ModelSummary": "shrinkserve.api.repository:ModelSummary",
    "PackReport": "shrinkserve.data.packing.pack:PackReport",
    "Parity": "shrinkserve.exporting.parity:Parity",
    "Prediction": "shrinkserve.serving.client.prediction:Prediction",
    "Predictor": "shrinkserve.runtimes.predictor:Predictor",
    "Preprocess": "shrinkserve.preprocess:Preprocess",
    "Progress": "shrinkserve.terminal:Progress",
    "QuickstartSummary": "shrinkserve.api.quickstart:QuickstartSummary",
    "Recipe": "shrinkserve.config:Recipe",
    "Record": "shrinkserve.data.dataset:Record",
    "Server": "shrinkserve.serving.server.server:TritonServer",
    "ServerOptions": "shrinkserve.serving.server.options:ServerOptions",
    "ServingConfig": "shrinkserve.config:ServingConfig",
    "SplitInfo": "shrinkserve.data.info:SplitInfo",
    "SplitReport": "shrinkserve.data.splitting:SplitReport",
    "StepProfile": "shrinkserve.training.profile:StepProfile",
    "Stopped": "shrinkserve.training.loop:Stopped",
    "TrainEvent": "shrinkserve.training.events:TrainEvent",
    "TrainResult": "shrinkserve.training.run_folder.result:TrainResult",
    "TrainingPlan": "shrinkserve.training.plan:TrainingPlan",
    "Tuning": "shrinkserve.benchmark.tuning:Tuning",
    "Verification": "shrinkserve.api.repository:Verification",
    "VerifyReport": "shrinkserve.data.verify:VerifyReport",
    "WrittenIndex": "shrinkserve.data.storage.index:WrittenIndex",
    "add_jpeg": "shrinkserve.api.maintenance:add_jpeg",
    "bench": "shrinkserve.benchmark.bench:bench",
    "check_parity": "shrinkserve.api.artifacts:check_parity",
    "compare": "shrinkserve.api.artifacts:compare",
    "describe": "shrinkserve.arch.describe:describe",
    "describe_dataset": "shrinkserve.data.info:describe_dataset",
    "doctor": "shrinkserve.serving.doctor:doctor",
    "document_recipe": "shrinkserve.config:document_recipe",
    "evaluate": "shrinkserve.training.evaluation:evaluate",
    "export": "shrinkserve.api.exporting:export",
    "import_recipe": "shrinkserve.arch.solver:import_recipe",
    "import_tensorflow": "shrinkserve.training.tensorflow_import:import_tensorflow",
    "index_dataset": "shrinkserve.data.indexing:index_dataset",
    "inspect": "shrinkserve.api.artifacts:inspect",
    "list_models": "shrinkserve.api.repository:list_models",
    "load": "shrinkserve.api.artifacts:load",
    "load_recipe": "shrinkserve.config:load_recipe",
    "open_dataset": "shrinkserve.data.opening:open_dataset",
    "pack_dataset": "shrinkserve.data.packing.pack:pack_dataset",
    "plan": "shrinkserve.benchmark.planning:plan",
    "plan_training": "shrinkserve.training.plan:plan_training",
    "plot_confusion": "shrinkserve.training.plot:plot_confusion",
    "plot_run": "shrinkserve.training.plot:plot_run",
    "predict": "shrinkserve.api.predict:predict",
    "profile_training": "shrinkserve.training.train:profile_training",
    "publish": "shrinkserve.api.publishing:publish",
    "quickstart": "shrinkserve.api.quickstart:quickstart",
    "recipe_names": "shrinkserve.config:recipe_names",
    "remove_old_versions": "shrinkserve.api.maintenance:remove_old_versions",
    "rollback": "shrinkserve.api.publishing:rollback",
    "show_version": "shrinkserve.api.repository:show_version",
    "split_dataset": "shrinkserve.data.splitting:split_dataset",
    "train": "shrinkserve.training.train:train",
    "tune_model": "shrinkserve.api.maintenance:tune_model",
    "verify_dataset": "shrinkserve.data.verify:verify_dataset",
    "verify_repository": "shrinkserve.api.repository:verify_repository",
    "write_digits": "shrinkserve.data.digits:write_digits",
}

if TYPE_CHECKING:
    from shrinkserve import arch, artifact, benchmark, config, data, errors, exporting, runtimes, serving, training
    from shrinkserve.api.artifacts import check_parity, compare, inspect, load
    from shrinkserve.api.destination import ExportResult
    from shrinkserve.api.exporting import export
    from shrinkserve.api.maintenance import Cleanup, add_jpeg, remove_old_versions, tune_model
    from shrinkserve.api.predict import predict
    from shrinkserve.api.publishing import publish, rollback
    from shrinkserve.api.quickstart import QuickstartSummary, quickstart
    from shrinkserve.api.repository import ModelSummary, Verification, list_models, show_version, verify_repository
    from shrinkserve.arch.counts import Counts
    from shrinkserve.arch.describe import describe
    from shrinkserve.arch.solver import import_recipe
    from shrinkserve.artifact import Card
    from shrinkserve.benchmark.bench import bench
    from shrinkserve.benchmark.capacity import CapacityPlan
    from shrinkserve.benchmark.planning import plan
    from shrinkserve.benchmark.report.record import BenchRecord
    from shrinkserve.benchmark.tuning import Tuning
    from shrinkserve.config import Recipe, ServingConfig, document_recipe, load_recipe, recipe_names
    from shrinkserve.data.dataset import Dataset, Record
    from shrinkserve.data.digits import write_digits
    from shrinkserve.data.indexing import index_dataset
    from shrinkserve.data.info import SplitInfo, describe_dataset
    from shrinkserve.data.opening import open_dataset
    from shrinkserve.data.packing.pack import PackReport, pack_dataset
    from shrinkserve.data.splitting import SplitReport, split_dataset
    from shrinkserve.data.storage.index import WrittenIndex
    from shrinkserve.data.verify import VerifyReport, verify_dataset
    from shrinkserve.exporting.parity import Parity
    from shrinkserve.preprocess import Preprocess
    from shrinkserve.runtimes.predictor import Predictor
    from shrinkserve.serving.client.async_client import AsyncClient
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.client.model_info import ModelInfo
    from shrinkserve.serving.client.operations import InferRequest, InferResult, ModelStatistics
    from shrinkserve.serving.client.prediction import ClassifyResult, Prediction
    from shrinkserve.serving.doctor import doctor
    from shrinkserve.serving.doctor.finding import Finding
    from shrinkserve.serving.server.options import ServerOptions
    from shrinkserve.serving.server.server import TritonServer as Server
    from shrinkserve.terminal import Progress
    from shrinkserve.training.evaluation import EvaluationResult, evaluate
    from shrinkserve.training.events import EventKind, TrainEvent
    from shrinkserve.training.loop import Stopped
    from shrinkserve.training.plan import TrainingPlan, plan_training
    from shrinkserve.training.plot import plot_confusion, plot_run
    from shrinkserve.training.profile import StepProfile
    from shrinkserve.training.run_folder.result import ImportResult, TrainResult
    from shrinkserve.training.tensorflow_import import import_tensorflow
    from shrinkserve.training.train import profile_training, train

__all__ = [
    "AsyncClient",
    "BenchRecord",
    "CapacityPlan",
    "Card",
    "ClassifyResult",
    "Cleanup",
    "Client",
    "Counts",
    "Dataset",
    "EvaluationResult",
    "EventKind",
    "ExportResult",
    "Finding",
    "ImportResult",
    "InferRequest",
    "InferResult",
    "ModelInfo",
    "ModelStatistics",
    "ModelSummary",
    "PackReport",
    "Parity",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Progress",
    "QuickstartSummary",
    "Recipe",
    "Record",
    "Server",
    "ServerOptions",
    "ServingConfig",
    "SplitInfo",
    "SplitReport",
    "StepProfile",
    "Stopped",
    "TrainEvent",
    "TrainResult",
    "TrainingPlan",
    "Tuning",
    "Verification",
    "VerifyReport",
    "WrittenIndex",
    "__version__",
    "add_jpeg",
    "arch",
    "artifact",
    "bench",
    "benchmark",
    "check_parity",
    "compare",
    "config",
    "data",
    "describe",
    "describe_dataset",
    "doctor",
    "document_recipe",
    "errors",
    "evaluate",
    "export",
    "exporting",
    "import_recipe",
    "import_tensorflow",
    "index_dataset",
    "inspect",
    "list_models",
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
    "recipe_names",
    "remove_old_versions",
    "rollback",
    "runtimes",
    "serving",
    "show_version",
    "split_dataset",
    "train",
    "training",
    "tune_model",
    "verify_dataset",
    "verify_repository",
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
