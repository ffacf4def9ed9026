"""Images and labels: TFRecord shards and image folders, and the loaders that feed training and evaluation."""
