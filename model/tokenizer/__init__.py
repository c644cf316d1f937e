"""Text to token ids and back, and conversations to text.

`interface` says what a tokenizer can do; `bpe` trains byte-level ones and loads tokenizer.json, `tiktoken_vocab` loads
Hunyuan's hy.tiktoken; `chat_template` turns messages into ids (its Jinja runs in `template_sandbox`); `folder` finds
the tokenizer and the template of a model's folder.
"""
