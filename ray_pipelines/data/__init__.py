"""Pipelines over Ray datasets; `pipeline.py` is the file to read first."""
