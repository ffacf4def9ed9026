"""Closed-loop and open-loop load tests, their validity and the search for the highest rate."""
