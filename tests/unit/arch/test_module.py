from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from shrinkserve.arch import load_network
from shrinkserve.arch.module import (
    Add,
    Concat,
    Network,
    SameConv2d,
    SameMaxPool2d,
    compile_spec,
    set_stochastic_depth,
)
from shrinkserve.arch.shapes import node_shapes
from shrinkserve.arch.spec import Spec, add
from shrinkserve.arch.zoo import NETWORKS
from shrinkserve.errors import SpecError

SMALL = Path(__file__).parent / "small.prototxt"
SIZES = [32, 96, 128, 160, 192, 224, 33, 97, 161, 225]


@pytest.fixture(scope="module", params=["shrinkcnn-a", "shrinkcnn-b"])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return settled(compile_spec(load_network(request.param, width=0.25, input_size=32, classes=10)))


def settled(network: Network) -> Network:
    """Return the network in evaluation mode with the running statistics of a batch, so that logits are about 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images(16, 32))
    return network.eval()


def images(batch: int, size: int) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch * size))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_concat_has_contiguous_gradients_equal_to_torch_cat(layout: torch.memory_format) -> None:
    def parts() -> list[torch.Tensor]:
        return [images(2, 8).contiguous(memory_format=layout).requires_grad_() for _ in range(2)]

    mine, theirs = parts(), parts()
    weight = torch.randn(2, 6, 8, 8).contiguous(memory_format=layout)
    joined, expected = Concat().train()(*mine), torch.cat(theirs, dim=1)
    assert torch.equal(joined, expected)
    strides: list[bool] = []
    for part in mine:
        part.register_hook(lambda gradient: strides.append(gradient.is_contiguous(memory_format=layout)))
    (joined * weight).sum().backward()
    (expected * weight).sum().backward()
    assert strides == [True, True]
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))


def test_state_dict_keys_are_node_and_tensor() -> None:
    spec = load_network("shrinkcnn-a", width=0.25, classes=10)
    state = compile_spec(spec).state_dict()
    tensors = {"conv": ["weight"], "dense": ["bias", "weight"]}
    tensors["batch_norm"] = ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"]
    expected = {f"{name}.{t}" for name, a in spec.nodes(data=True) for t in tensors.get(a["op"], [])}
    assert set(state) == expected
    assert {"stage2.cell1.left.depthwise.weight", "head.logits.bias"} < expected


@pytest.mark.parametrize("size", SIZES)
def test_every_node_has_inferred_shape(size: int) -> None:
    spec = load_network("shrinkcnn-a", width=0.25, classes=10)
    network = compile_spec(spec).eval()
    found = {"images": (3, size, size)}
    for name, module in network.named_modules():
        if name in spec:
            module.register_forward_hook(lambda _m, _x, out, name=name: found.update({name: tuple(out.shape[1:])}))
    with torch.no_grad():
        network(images(1, size))
    spec.nodes["images"]["size"] = size
    assert found == node_shapes(spec)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (2, 2), (3, 3), (3, 1), (4, 1), (1, 2), (2, 3)])
def test_convolution_pads_as_same(size: int, kernel: int, stride: int) -> None:
    x, weight = images(1, size).numpy()[0, 0], images(1, kernel).numpy()[0, 0]
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    conv.weight.data = torch.from_numpy(weight)[None, None]
    expected = over_windows(x, kernel, stride, lambda window, w=weight: np.nansum(window * w))
    np.testing.assert_allclose(conv(torch.from_numpy(x)[None, None])[0, 0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3), (3, 3), (4, 2)])
def test_pool_pads_as_same_and_ignores_padding(size: int, kernel: int, stride: int) -> None:
    x = images(1, size).numpy()[0, 0] - 10  # negative, so that a padded zero would be the maximum
    found = SameMaxPool2d(kernel, stride)(torch.from_numpy(x)[None, None])[0, 0]
    np.testing.assert_array_equal(found, over_windows(x, kernel, stride, np.nanmax))


def over_windows(x: np.ndarray, kernel: int, stride: int, reduce: Callable[..., float]) -> np.ndarray:
    """Apply the definition of SAME: windows `stride` apart over an image padded with NaN."""
    outputs = int(np.ceil(len(x) / stride))
    total = max((outputs - 1) * stride + kernel - len(x), 0)
    padded = np.pad(x, ((total // 2, total - total // 2),) * 2, constant_values=np.nan)
    starts = range(0, outputs * stride, stride)
    return np.array([[reduce(padded[i : i + kernel, j : j + kernel]) for j in starts] for i in starts])


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_torch_export_accepts_any_batch(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network has every layer of the large ones. shrinkcnn-b differs from shrinkcnn-a in the activation."""
    monkeypatch.setitem(NETWORKS, "shrinkcnn-tiny", (activation, NETWORKS["shrinkcnn-tiny"][1]))
    torch.manual_seed(0)
    network = settled(compile_spec(load_network("shrinkcnn-tiny", width=0.25, input_size=32, classes=10)))
    exported = torch.export.export(network, (images(2, 32),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for batch in (1, 2, 5):
        torch.testing.assert_close(exported(images(batch, 32)), network(images(batch, 32)))


def test_torch_compile_accepts_any_batch_and_size_in_one_graph() -> None:
    torch.manual_seed(0)
    network = settled(compile_spec(load_network(SMALL)))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for batch, size in ((2, 32), (3, 32), (5, 32), (2, 33)):
        torch.testing.assert_close(compiled(images(batch, size)), network(images(batch, size)))


@pytest.mark.parametrize("size", [32, 49])
def test_channels_last_gives_same_logits(network: Network, size: int) -> None:
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = images(2, size)
    torch.testing.assert_close(other(x.to(memory_format=torch.channels_last)), network(x), rtol=1e-4, atol=1e-4)


def test_onnx_nodes_have_names_of_spec(tmp_path: Path) -> None:
    import onnxruntime

    spec = load_network("shrinkcnn-tiny", width=0.25, input_size=32, classes=10)
    network = settled(compile_spec(spec))
    program = torch.onnx.export(network, (images(2, 32),), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    weights = {name.rpartition(".")[0] for name in program.model.graph.initializers}
    assert {name for name, a in spec.nodes(data=True) if a["op"] in ("conv", "dense")} <= weights
    scopes = [ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])[1] for node in program.model.graph]
    assert set(scopes) <= set(spec)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {"images": images(5, 32).numpy()})[0]
    np.testing.assert_allclose(found, network(images(5, 32)).detach(), rtol=1e-3, atol=1e-4)


def test_initialise_gives_reference_distributions() -> None:
    torch.manual_seed(1)
    network = compile_spec(load_network("shrinkcnn-a"))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = 9 if "depthwise" in name else module.out_channels * module.kernel_size[0] ** 2
            weights = module.weight.detach().flatten().numpy()
            # A normal distribution truncated at two standard deviations, with variance 2 / fan-out.
            cut = stats.truncnorm(-2, 2, scale=1 / stats.truncnorm(-2, 2).std() * (2 / fan_out) ** 0.5)
            assert stats.kstest(weights, cut.cdf).pvalue > 1e-4, name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, pytest.approx(0.001))
            assert module.affine
    logits = network.get_submodule("head.logits")
    assert logits.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not logits.bias.any()


def test_initialise_is_reproducible() -> None:
    spec = load_network("shrinkcnn-b", width=0.25, input_size=32)
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(compile_spec(spec).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_every_parameter_has_gradient(network: Network) -> None:
    other = copy.deepcopy(network).train()
    nn.functional.cross_entropy(other(images(4, 32)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in other.parameters())


def test_stochastic_depth_leaves_out_branches_in_training_only() -> None:
    network = compile_spec(load_network("shrinkcnn-a", classes=3, input_size=32, width=0.25))
    set_stochastic_depth(network, 0.5)
    additions = [module for module in network.modules() if isinstance(module, Add)]
    assert [module.drop for module in additions] == pytest.approx([0.5 * n / 18 for n in range(1, 19)])
    shortcut, branch = torch.zeros(4000, 2, 1, 1), torch.ones(4000, 2, 1, 1)
    found = additions[-1](shortcut, branch)
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(found[:, 0], found[:, 1])
    assert float(found.mean()) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(network.eval().get_submodule("stage5.cell4.add")(shortcut, branch), branch)


@pytest.mark.parametrize("name", ["training", "forward", "a.weight", "graph.conv"])
def test_compile_spec_rejects_names_reserved_by_torch(name: str) -> None:
    spec: Spec = nx.DiGraph()
    add(spec, "images", "input", channels=3, size=8)
    add(spec, "pool", "global_avg_pool", "images")
    add(spec, name, "dense", "pool", units=2, bias=True)
    if name == "a.weight":
        assert list(compile_spec(spec).state_dict()) == ["a.weight.weight", "a.weight.bias"]
    else:
        with pytest.raises(SpecError, match="reserved"):
            compile_spec(spec)
