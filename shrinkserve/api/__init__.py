"""Functions of the public Python API that need several stages of the pipeline, one module for each command."""
