"""Byte-level BPE: training it on a corpus, loading it, and turning text into ids and ids into text (`bpe`)."""
