"""One task on one device in this process: torch and transformers, no Ray.

    load.py       a spec to a real `transformers.Pipeline` on its device
    hub.py        a model's name to a commit, a commit to a folder of this node
    steps.py      preprocess, forward and postprocess of that pipeline, one at a time
    batching.py   which chunks share a forward; one batch out of many inputs, many outputs out of one
    memory.py     out of memory and broken devices, told from other errors
    runner.py     the executor: items in, results or `RowError`s out, in input order
    transfer.py   model inputs and outputs as Arrow values, where they cross a stage boundary

The engine hosts Hugging Face pipelines and replaces only their executor (`get_iterator`, DataLoader, PackIterator).
"""
