"""The jobs: runnable modules that build inputs for, or drive, the pipelines."""
