"""Image classifiers from other tools: read their interface, adapt it, and check the result against the file."""
