"""Containers that re-express the integer graph: the same integers in each, so that engines are compared in codes."""
