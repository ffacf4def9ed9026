"""Python-based Triton backends: the pip server has only Triton's Python backend, which runs these."""
