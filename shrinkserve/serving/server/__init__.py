"""Find, start and supervise tritonserver."""
