"""Load tests: closed and open loop."""
