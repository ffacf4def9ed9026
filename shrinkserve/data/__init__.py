"""Images and labels: TFRecord shards and image folders, and the loaders that feed training and evaluation.

```
open_dataset(root, split) --> Dataset --> evaluation_batches(...) --> Batch, Batch, ...
                                      +-> train_loader(...).epoch(number) --> Batch, Batch, ...
```
"""

from shrinkserve.data.batch import Batch
from shrinkserve.data.dataset import Dataset, Record, Split
from shrinkserve.data.loaders import TrainLoader, evaluation_batches, train_loader
from shrinkserve.data.opening import open_dataset

__all__ = ["Batch", "Dataset", "Record", "Split", "TrainLoader", "evaluation_batches", "open_dataset", "train_loader"]
