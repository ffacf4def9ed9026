"""ShrinkCNN as data: a networkx graph of named operations, its checks, counts, importers and torch module."""
