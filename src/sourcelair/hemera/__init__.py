"""Hemera informs the visitor of a sleeping server and wakes it, and puts idle servers to sleep."""
