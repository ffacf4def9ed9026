"""Images and labels: TFRecord shards and image folders, and the loaders that feed training and evaluation.

```
open_dataset(root, split) --> Dataset --> evaluation_batches(...) --> Batch, Batch, ...
                                      +-> train_loader(...).epoch(number) --> TrainBatch, TrainBatch, ...
```
"""

from shrinkserve.data.batch import Batch, ColourMaps, TrainBatch
from shrinkserve.data.dataset import Dataset, Record, Split, SplitUsage
from shrinkserve.data.loaders import TrainLoader, evaluation_batches, train_loader
from shrinkserve.data.opening import open_dataset

__all__ = [
    "Batch",
    "ColourMaps",
    "Dataset",
    "Record",
    "Split",
    "SplitUsage",
    "TrainBatch",
    "TrainLoader",
    "evaluation_batches",
    "open_dataset",
    "train_loader",
]
