"""What a model is taught to answer: conversations, pairs of a better and a worse answer, questions; from files to token ids.

conversations.py   the spellings of a conversation in a row
preferences.py     those of pairs, and questions without an answer
rendering.py       conversations as token ids, and which of them are learnt
examples.py        a run's examples: rendered, measured, parted into training and validation
packing.py         examples in rows of one length, in an order that is a function of the seed
"""
