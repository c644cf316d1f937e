"""What is learnt of a conversation: the very tokens that the model would have to say, after those that it is given."""

import json

import pytest
import tokenizers

from model.data.instructions.conversations import chat_of
from model.data.instructions.preferences import pair_of, question_in
from model.data.instructions.rendering import Renderer, UnmaskableError
from model.data.readers import Row
from model.errors import DataError
from model.tokenizer.bpe import Tokenizer, train_tokenizer
from model.tokenizer.chat_template import ChatTemplate, plain_template, turns_template
from tests.tokenizer.templates import SPECIAL, TEMPLATES, THINKING, TOOLS

TEXT = "User: Assistant: sort one two three four 1 2 3 <| |> think tool call \n\n  "


def tokenizer_with(*special):
    content = json.loads(train_tokenizer([TEXT * 9], 300).to_json())
    for name in special:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        content["added_tokens"].append({"id": len(content["model"]["vocab"]), "content": name, **flags})
        content["model"]["vocab"][name] = len(content["model"]["vocab"])
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


TOKENIZER = tokenizer_with(*SPECIAL)
TURNS = Renderer(TOKENIZER, turns_template(TOKENIZER))


def renderer(source, end="<|im_end|>"):
    return Renderer(TOKENIZER, ChatTemplate(source), [TOKENIZER.special_tokens[end]])


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def chat(*messages, **more):
    return chat_of(Row("chats.jsonl, line 4", {"messages": list(messages), **more}))


def learnt_text(example):
    """The learnt tokens as text, special tokens by their names."""
    names = {id: name for name, id in TOKENIZER.special_tokens.items()}
    return "".join(
        names.get(id) or TOKENIZER.decode([id])
        for id, learnt in zip(example.ids, example.learnt, strict=True)
        if learnt
    )


END = "<|endoftext|>"
TWO = (user("one"), assistant("two"), user("three"), assistant("four"))


@pytest.mark.parametrize(
    ("train_on", "text"),
    [
        ("answers", f"two{END}four{END}"),
        ("last", f"four{END}"),
        ("all", f"User:\none{END}\nAssistant:\ntwo{END}\nUser:\nthree{END}\nAssistant:\nfour{END}"[1:]),
    ],
)
def test_answers_are_learnt_with_their_ends(train_on, text):
    (example,) = TURNS.chat(chat(*TWO), train_on)
    assert learnt_text(example) in (text, text[3:])  # of all but the first token
    assert not example.learnt[0] and example.ids[-1] == TOKENIZER.eos_id


@pytest.mark.parametrize(
    "answer", ["two", "  two", "\n\ntwo", "two\n", "<|endoftext|>", "é", "two\n\nAssistant:\nfour"]
)
def test_what_is_learnt_follows_what_the_model_is_given(answer):
    (example,) = TURNS.chat(chat(user("one"), assistant(answer)))
    prompt = TURNS.question(question_in(Row("", {"prompt": "one"})))
    assert example.ids == [*prompt, *TOKENIZER.encode(answer), TOKENIZER.eos_id]
    assert example.learnt == [False] * len(prompt) + [True] * (len(example.ids) - len(prompt))


def test_the_last_message_may_be_a_question():
    (example,) = TURNS.chat(chat(*TWO, user("more?")))
    assert example == TURNS.chat(chat(*TWO))[0]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "parts"])
def test_every_answer_follows_the_very_prompt_of_the_engine(name):
    """An oracle with nothing of the masks: each answer alone, as generation would be asked for it."""
    source, end = TEMPLATES[name], "<|end|>" if name != "thinking" else "<|im_end|>"
    if name == "developer":
        source = source.replace("<|im_start|>assistant{% endif %}", "<|im_start|>assistant\n{% endif %}")
    render = renderer(source, end)
    conversation = chat(*TWO)
    found = set()
    for example in render.chat(conversation):
        starts = [i for i in range(1, len(example.ids)) if example.learnt[i] and not example.learnt[i - 1]]
        for start in starts:
            stop = next(i for i in range(start, len(example.ids)) if example.ids[i] in render.ends)
            assert all(example.learnt[start : stop + 1])
            found.add((tuple(example.ids[:start]), TOKENIZER.decode(example.ids[start:stop]).strip()))
    asked = {
        (tuple(render.template.encode(conversation.messages[:index], TOKENIZER)), text)
        for index, text in ((1, "two"), (3, "four"))
    }
    if name == "thinking":
        asked = {(prompt, f"\n\n\n\n{text}".strip()) for prompt, text in asked}
    assert found == asked


def test_a_template_that_changes_earlier_turns_gives_each_answer_its_own_example():
    thought = chat(
        user("one"), assistant("two", reasoning_content="why"), user("three"), assistant("four", reasoning_content="so")
    )
    last, first = renderer(THINKING).chat(thought)
    assert learnt_text(last) == "<think>\nso\n</think>\n\nfour<|im_end|>"
    assert learnt_text(first) == "<think>\nwhy\n</think>\n\ntwo<|im_end|>"
    assert "why" not in TOKENIZER.decode(last.ids)  # the template leaves earlier reasoning out
    alike = renderer(THINKING.replace("loop.index0 > ns.last and (loop.last or reasoning)", "true")).chat(thought)
    assert len(alike) == 1 and learnt_text(alike[0]) == learnt_text(first) + learnt_text(last)


def test_a_call_is_an_answer_and_its_result_is_not():
    call = {"type": "function", "function": {"name": "sort", "arguments": {"x": 1}}}
    messages = [
        user("one"),
        assistant(None, tool_calls=[call]),
        {"role": "tool", "tool_call_id": "1", "content": "two"},
    ]
    tools = [{"type": "function", "function": {"name": "sort"}}]
    (example,) = renderer(TOOLS, "<|end|>").chat(chat(*messages, assistant("three"), tools=tools))
    assert learnt_text(example) == '{"name": "sort", "parameters": {\n "x": 1\n}}<|end|>three<|end|>'


def test_an_answer_without_an_end_is_refused():
    with pytest.raises(
        DataError, match=r"line 4: no token ends message 2, so the model would not learn to stop .*take a"
    ):
        Renderer(TOKENIZER, plain_template()).chat(chat(*TWO[:2]))
    with pytest.raises(DataError, match=r"known ends: <\|endoftext\|>\); name '<\|im_end\|>' with --end-token"):
        Renderer(TOKENIZER, ChatTemplate(THINKING)).chat(chat(*TWO))
    with pytest.raises(DataError, match="no token ends message 2"):
        Renderer(TOKENIZER, plain_template()).chat(chat(*TWO[:2]), "all")


def test_an_answer_that_does_not_follow_its_prompt_cannot_be_masked_but_learnt_in_full():
    begun = renderer(THINKING.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>!' }}"))
    with pytest.raises(UnmaskableError, match=r"line 4: message 4 does not stand after '!', with which the template"):
        begun.chat(chat(*TWO))
    assert len(begun.chat(chat(*TWO), "all")) == 1


def test_plain_text_is_the_prompt_the_answer_and_the_end():
    plain = Renderer(TOKENIZER, None)
    (example,) = plain.chat(chat(user("sort one"), assistant(" two")))
    assert example.ids == [*TOKENIZER.encode("sort one"), *TOKENIZER.encode(" two"), TOKENIZER.eos_id]
    assert learnt_text(example) == " two<|endoftext|>"
    for messages in (TWO, ({"role": "system", "content": "x"}, *TWO[:2])):
        with pytest.raises(DataError, match="line 4: plain text has one question and one answer"):
            plain.chat(chat(*messages))


def test_pairs_share_their_prompt_and_end():
    pair = pair_of(Row("pairs.jsonl, line 2", {"prompt": "one", "chosen": "two", "rejected": "  three"}))
    prompt, chosen, rejected = TURNS.pair(pair)
    assert prompt == TURNS.question(question_in(Row("", {"prompt": "one"})))
    assert chosen == [*TOKENIZER.encode("two"), TOKENIZER.eos_id]
    assert rejected == [*TOKENIZER.encode("  three"), TOKENIZER.eos_id]
    trims = renderer(TOOLS, "<|end|>")
    with pytest.raises(DataError, match="line 2: chosen and rejected are the same tokens"):
        trims.pair(pair_of(Row("pairs.jsonl, line 2", {"prompt": "one", "chosen": "two", "rejected": " two"})))


def test_what_a_template_leaves_out_or_refuses_names_the_line():
    call = {"type": "function", "function": {"name": "sort", "arguments": {}}}
    with pytest.raises(DataError, match="line 4: the chat template does not write tool_calls"):
        TURNS.chat(chat(user("one"), assistant(None, tool_calls=[call])))
    with pytest.raises(DataError, match="line 4: the chat template refuses these messages: roles must alternate"):
        renderer(TEMPLATES["no-system"], "<|end|>").chat(chat(user("one"), user("two"), assistant("three")))
