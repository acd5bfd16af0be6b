"""Typed clients for the three APIs, and the shapes that they exchange: all that services share about each other."""
