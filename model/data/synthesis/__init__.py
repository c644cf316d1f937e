"""Synthetic instruction data in four steps: instructions, their evolution, responses, and what the filters keep.

`record` is what every step reads and writes, `store` the shards and manifests of a step, `writer` what answers requests.
Nothing is imported here, so that the filters can be used without the rest.
"""
