from __future__ import annotations

import ast
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from platformdirs import user_cache_path

from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.engine import build as build_module
from shrinkserve.exporting.engine import library as library_module
from shrinkserve.exporting.engine import progress as progress_module
from shrinkserve.exporting.engine import step as step_module
from shrinkserve.exporting.engine.build import EngineOptions, build_engine
from shrinkserve.exporting.engine.library import import_library
from shrinkserve.exporting.engine.step import EngineStep
from shrinkserve.exporting.precision import Lower
from shrinkserve.exporting.quantise.calibration import clip, observe
from shrinkserve.exporting.quantise.static import quantise
from shrinkserve.exporting.samples import synthetic
from shrinkserve.runtimes import tensorrt as runtime

AHEAD = EngineOptions(compute_capability="8.9", opt_batch=2, max_batch=4)
WHEELS = user_cache_path("shrinkserve") / "wheels"
OWNER = re.compile(
    r"(self\.)?(trt|builder|network|config|parser|profile|cache|error|engine|context|runtime)(\.[A-Z]\w+)*"
)
"""The variables that hold TensorRT's module and objects, and the classes and enumerations inside the module."""
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}


@pytest.fixture(scope="module")
def trt():
    try:
        return import_library("tensorrt_rtx")
    except ConfigError as exc:
        pytest.skip(str(exc))


def used_names() -> set[str]:
    """Return the names of TensorRT's API that the builder and the runtime use, from their source."""
    names = {"AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"}
    for module in (build_module, library_module, step_module, progress_module, runtime):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        names |= {node.attr for node in attributes if OWNER.fullmatch(ast.unparse(node.value))}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("trt." in ast.unparse(base) for base in node.bases):
                names |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in names if not name.startswith("__")} - RTX_ONLY


def wheel(pattern: str) -> zipfile.ZipFile:
    found = sorted(WHEELS.glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} in {WHEELS}: pip download --no-deps -d {WHEELS} {pattern.partition('-')[0]}")
    return zipfile.ZipFile(found[-1])


def test_used_names_finds_names():
    assert {
        "build_serialized_network",
        "STRONGLY_TYPED",
        "set_shape",
        "phase_start",
        "execute_async_v3",
    } <= used_names()


def test_every_name_is_in_tensorrt_10():
    """The stubs are no valid Python (arguments without a default follow others), so a regex reads them, not ast."""
    surface = wheel("tensorrt_stubs-10*.whl").read("tensorrt_bindings/tensorrt.pyi").decode()
    known = set(re.findall(r"(?:def|class)\s+(\w+)", surface)) | set(re.findall(r"^\s+(\w+):", surface, re.MULTILINE))
    assert used_names() - known == set()


def test_every_name_is_in_tensorrt_11():
    """There are no stubs of TensorRT 11 on PyPI, so the strings of its library are searched."""
    library = wheel("tensorrt_cu12_bindings-11*.whl").read("tensorrt_bindings/tensorrt.so")
    known = {part.decode() for part in re.findall(rb"[A-Za-z_][A-Za-z0-9_]{2,}", library)}
    assert used_names() - known == set()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_build_engine_of_every_precision(trt, tiny_onnx: Path, tmp_path: Path, precision: str):
    images = synthetic(32, 8).images
    source = tiny_onnx
    if precision == "int8":
        source = tmp_path / "int8.onnx"
        model = graph.load(tiny_onnx)
        onnx.save(quantise(model, clip(observe(model, images), "minmax"), "tensorrt"), source)
    elif precision != "float32":
        source = tmp_path / "low.onnx"
        Lower(precision, images).run(tiny_onnx, source, synthetic(32, 4))
    log, target = tmp_path / "build.log", tmp_path / "model.plan"
    step = EngineStep(precision, AHEAD, log=log, library="tensorrt_rtx", progress=False)
    record = step.run(source, target, synthetic(32, 4))
    assert target.stat().st_size > 10_000
    assert record["built"] == {
        "library": "tensorrt_rtx",
        "version": trt.__version__,
        "gpu": None,
        "compute_capability": "8.9",
        "hardware_compatibility": "none",
        "batches": [1, 2, 4],
        "containers": [],
    }
    assert "VERBOSE" in log.read_text()


def test_plans_differ_by_compute_capability(trt, tiny_onnx: Path):
    plans = {sm: build_engine(trt, tiny_onnx, EngineOptions(compute_capability=sm)) for sm in ("8.6", "8.9")}
    assert plans["8.6"] != plans["8.9"]


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")  # its timing caches are empty
def test_timing_cache_is_kept(trt, tiny_onnx: Path, tmp_path: Path):
    cache = tmp_path / "timing.cache"
    build_engine(trt, tiny_onnx, AHEAD, timing_cache=cache)
    first = cache.read_bytes()
    build_engine(trt, tiny_onnx, AHEAD, timing_cache=cache)
    assert first
    assert cache.read_bytes() == first


def test_timing_cache_has_a_file_for_each_gpu_and_version(monkeypatch: pytest.MonkeyPatch):
    """A GPU's timings were rejected, and written back unused, when one file served all GPUs."""
    names = []
    for name, version, ahead in [
        ("NVIDIA L4", "11.2.1.2", None),
        ("NVIDIA H100 80GB HBM3", "11.2.1.2", None),
        ("NVIDIA L4", "11.1.0.106", None),
        ("NVIDIA L4", "11.2.1.2", "8.6"),
    ]:
        monkeypatch.setattr(step_module, "gpu", lambda name=name: {"gpu": name, "compute_capability": "8.9"})
        library = SimpleNamespace(__name__="tensorrt", __version__=version)
        names.append(step_module.cache_name(library, EngineOptions(compute_capability=ahead)))
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)


def test_progress_reports_phases(trt, tiny_onnx: Path):
    class Bars:
        def __init__(self):
            self.added, self.removed, self.steps = [], [], 0

        def update(self, name, done, total, *, label=None):
            if label is not None:
                self.added.append((name, total))
            self.steps += done > 0

        def remove(self, name):
            self.removed.append(name)

    bars = Bars()
    watcher = progress_module._monitor(trt, bars)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(tiny_onnx))
    config = builder.create_builder_config()
    build_module._configure(trt, config, AHEAD)
    config.add_optimization_profile(build_module._profile(builder, network, AHEAD))
    config.progress_monitor = watcher
    assert builder.build_serialized_network(network, config) is not None
    assert bars.added
    assert bars.steps
    assert sorted(bars.removed) == sorted(name for name, _ in bars.added)


def test_build_rejects_graph_for_onnxruntime(trt, tiny_onnx: Path, tmp_path: Path):
    model = graph.load(tiny_onnx)
    path = tmp_path / "unsigned.onnx"
    onnx.save(quantise(model, clip(observe(model, synthetic(32, 8).images), "minmax"), "onnxruntime"), path)
    with pytest.raises(ArtifactError, match=r"TensorRT rejects the graph \(.*zero.?point"):
        build_engine(trt, path, AHEAD)


def test_build_rejects_unknown_capability(trt, tiny_onnx: Path):
    with pytest.raises(ConfigError, match=r"compute capability: expected one of 7\.5, .*, found 1\.0"):
        build_engine(trt, tiny_onnx, EngineOptions(compute_capability="1.0"))


@pytest.mark.parametrize("wrong", [{"min_batch": 0}, {"opt_batch": 64}, {"min_batch": 9}, {"level": 6}])
def test_engine_options_reject_inconsistent_values(wrong: dict[str, int]):
    with pytest.raises(ConfigError):
        EngineOptions(**wrong)


def test_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(library_module.MODULES, "tensorrt", ("no_such_tensorrt",))
    with pytest.raises(ConfigError, match="pip install tensorrt"):
        import_library("tensorrt")
