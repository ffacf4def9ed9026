"""What a measurement looks like to those who were not there."""
