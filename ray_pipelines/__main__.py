"""`python -m ray_pipelines` is the `ray-pipelines` command."""

from ray_pipelines.cli import main

if __name__ == "__main__":
    main()
