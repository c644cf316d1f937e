"""From text to batches.

`config` names the sources, `sources` reads them, `split` holds a part back, `corpus` turns them into token shards
(`shards`) kept in a `cache`, and `order` says which sequence is drawn when. Nothing is imported here, so that
`hunyuan --help` can read the settings of `config` alone.
"""
