"""Record of a measurement, its gates, and the reports made from it."""
