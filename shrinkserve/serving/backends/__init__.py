"""Python-based Triton backends for the server from PyPI, which has only Triton's Python backend to run them."""
