from __future__ import annotations

from pathlib import Path

import pytest

import shrinkserve as ss


def test_all_stages_through_python_api(digits: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    run = ss.train("smoke", digits, tmp_path / "run")
    assert ss.evaluate(run, data=digits).top1 == pytest.approx(run.top1)
    version = ss.export(run, data=digits, repository=models)
    assert version.folder == models / "smoke_classifier" / "1"
    outcome = ss.compare(run, version, data=digits, limit=32)
    assert (outcome.flips, outcome.reference, outcome.candidate) == (0, str(run.folder), str(version.folder))
    image = ss.open_dataset(digits, "validation").record(0).encoded
    with ss.Server(models) as server:
        with ss.Client(server.grpc_url) as client:
            (prediction,) = client.classify([image])
        (local,) = ss.predict([image], model=version, top=1)
        assert local.predictions[0].label == prediction.label
        urls = [server.http_url, server.grpc_url]
        record = ss.bench(digits, url=urls, checkpoint=run, repository=models, window=0.1, out=tmp_path / "report")
    assert record.partial is None
    assert record.misses == []
    assert "misses=[]" in repr(record)
    assert (tmp_path / "report" / "report.html").is_file()
