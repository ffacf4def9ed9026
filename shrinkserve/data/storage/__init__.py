"""Layouts of a dataset on the disk: TFRecord shards and image folders, and the list of images to skip."""
