"""Lets NGINX itself check the configuration that we render, and load every Lua file: ``python -m …nginx.check``."""
