"""From a pre-trained model to one that answers: instructions, rewards, preferences.

`batch` makes rows of tokens, `logps` their log-probabilities, `sft`, `reward` and `dpo` a loss of those, `online` pairs of a
policy's own answers, `average` the moving average of the weights. Nothing is imported here.
"""
