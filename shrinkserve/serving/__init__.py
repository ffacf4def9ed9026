"""The Triton side: model configs, the repository, the server process, its backends, the client."""
