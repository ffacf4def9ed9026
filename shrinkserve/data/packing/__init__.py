"""Pack images into TFRecord shards."""
