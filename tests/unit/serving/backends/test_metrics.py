from __future__ import annotations

import re
import time
import urllib.request

import numpy as np

from shrinkserve.serving.backends.metrics import BUCKETS, NAME
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.server.server import TritonServer


def samples(server: TritonServer, part: str) -> dict[str, float]:
    """Return the values of one family for the model `tiny` by the bound of their bucket."""
    with urllib.request.urlopen(server.metrics_url, timeout=60) as page:
        text = page.read().decode()
    found = re.findall(rf"^{NAME}_{part}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {
        re.sub(r'.*le="([^"]*)".*|.*', r"\1", labels): float(value)
        for labels, value in found
        if 'model="tiny"' in labels
    }


def test_execution_times_are_a_cumulative_histogram(tiny_server: TritonServer) -> None:
    before = sum(samples(tiny_server, "count").values())
    with Client(tiny_server.grpc_url) as client:
        for _ in range(20):
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        time.sleep(1.1)  # they are reported once a second
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
    buckets = samples(tiny_server, "bucket")
    total = sum(samples(tiny_server, "count").values())
    assert total - before >= 21
    assert buckets["+Inf"] == total
    bounds = sorted(buckets, key=float)
    assert [buckets[bound] for bound in bounds] == sorted(buckets.values())
    assert {float(bound) for bound in bounds} <= set(BUCKETS)
    assert 0 < sum(samples(tiny_server, "sum").values()) < 60
