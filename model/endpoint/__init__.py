"""A client for any endpoint that speaks OpenAI's chat completions, on the standard library alone.

    config    what is asked of whom, how fast, and what it may cost       client   many requests at once: ask() and estimate()
    address   URL, key, proxy        exchange   one POST, with a deadline  answers  what a status and a body mean
    retry     how long to wait       pace       requests and tokens per minute
    journal   what was sent and answered, on the disk: nothing is paid twice
    judge     scores and comparisons by a model

Writers of synthetic data, judges of evaluations and scores of filters all ask through `Client`.
"""
