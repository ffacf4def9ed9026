"""Publish a version to a live server, and roll it back."""
