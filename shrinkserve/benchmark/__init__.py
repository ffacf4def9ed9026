"""Accuracy and latency of anything that answers, records with units, the report."""
