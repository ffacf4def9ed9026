"""Client for a Triton server: sync and async, HTTP and gRPC."""
