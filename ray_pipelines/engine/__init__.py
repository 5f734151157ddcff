"""One task on one device in this process: torch and transformers, no Ray.

    load.py       a spec to a real `transformers.Pipeline` on its device
    hub.py        a model's name to a commit, a commit to a folder of this node
    identity.py   what of a loaded model determines its results
    steps.py      preprocess, forward and postprocess of that pipeline, one at a time
    batching.py   which chunks share a forward; one batch out of many inputs, many outputs out of one
    memory.py     out of memory and broken devices, told from other errors
    runner.py     the executor: items in, results or `RowError`s out, in input order
    windows.py      the chunks among which batches are formed, made while the device computes
    forwards.py     batches forwarded; halved where they do not fit, searched where they fail
    tuning.py       the budget of a batch, found while real rows run
    counters.py     what each step has cost
    lengths.py      how long inputs may be, and where they are cut
    seeds.py        random numbers that depend on a row alone
    transfer.py   model inputs and outputs as Arrow values, where they cross a stage boundary
    exchange.py   rows and results as messages, where another process has the pipeline

The engine hosts Hugging Face pipelines and replaces only their executor (`get_iterator`, DataLoader, PackIterator).
"""
