"""lm-eval's tasks with our model: its own `evaluate` on local files, against one forward pass for each choice."""

import math

import pytest
import torch

from model.errors import ConfigError, DataError
from tests.evaluation.folders import small_model, write_arc, write_gsm8k, write_lines

lm_eval = pytest.importorskip("lm_eval", reason="the extra eval is not installed")

from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.evaluator import evaluate  # noqa: E402

from model.evaluation.harness.lm import HarnessModel  # noqa: E402
from model.evaluation.harness.run import offline, quiet, run_task  # noqa: E402
from model.evaluation.harness.tasks import load_tasks  # noqa: E402


class OneByOne(TemplateLM):
    """The oracle: every choice in a forward pass of its own, every text a token at a time, in lm-eval's own words."""

    def __init__(self, model):
        super().__init__()
        self.net, self.tokenizer_ = model.net, model.tokenizer

    eot_token_id = property(lambda self: self.tokenizer_.eos_id)

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self.tokenizer_.encode(string)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests, **kwargs):
        found = []
        for _, context, continuation in requests:
            logprobs = self.net(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].log_softmax(-1)
            wanted = torch.tensor(continuation)
            greedy = bool((logprobs.argmax(-1) == wanted).all())
            found.append((float(logprobs.gather(1, wanted[:, None]).sum()), greedy))
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        pairs = [self.tok_encode(request.args[0]) for request in requests]
        return [self._loglikelihood_tokens([(None, [self.eot_token_id], ids)])[0][0] for ids in pairs]

    @torch.no_grad()
    def generate_until(self, requests, disable_tqdm=False):
        texts = []
        for request in requests:
            ids, new = self.tok_encode(request.args[0]), []
            for _ in range(request.args[1].get("max_gen_toks", 20)):
                new.append(int(self.net(torch.tensor([ids + new])).logits[0, -1].argmax()))
                if new[-1] == self.eot_token_id:
                    break
            text = self.tokenizer_.decode(new)
            for stop in request.args[1]["until"]:
                text = text.split(stop)[0]
            texts.append(text)
        return texts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_gsm8k(write_arc(tmp_path_factory.mktemp("data")))
    write_lines(folder / "plain.jsonl", [{"text": "the router sends each token to one expert " * n} for n in (1, 2, 9)])
    (folder / "plain.yaml").write_text(
        f"task: plain\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'plain.jsonl'}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: text\n"
        "metric_list:\n  - metric: bits_per_byte\n  - metric: word_perplexity\n"
    )
    return folder


def run(data, name, model=None, shots=0, limit=None, chat=False, max_new_tokens=20, seed=1234):
    model = model or small_model(context=1024)
    with quiet(), offline(True):
        loaded = load_tasks([name], data=data, shots=shots, seed=seed)
        lm = HarnessModel(model, max_new_tokens=max_new_tokens)
        return run_task(lm, loaded, limit=limit, chat=chat, template="ours")


def oracle(data, name, shots=0, seed=1234):
    with quiet(), offline(True):
        loaded = load_tasks([name], data=data, shots=shots, seed=seed)
        return evaluate(OneByOne(small_model(context=1024)), loaded, bootstrap_iters=0)


@pytest.mark.parametrize(("name", "shots"), [("arc_easy", 0), ("arc_easy", 3), ("gsm8k", 2)])
def test_scores_and_answers_are_those_of_one_request_at_a_time(data, name, shots):
    rows, samples = run(data, name, shots=shots)
    expected = oracle(data, name, shots)
    for row in rows:
        metric = row.metric if "," in row.metric else f"{row.metric},none"
        assert row.score == pytest.approx(100 * expected["results"][name][metric]), row.metric
        assert (row.n, row.shots, row.template) == (len(samples), shots, "none")
    for sample, other in zip(samples, expected["samples"][name], strict=False):
        answers = [answer[0] for answer in other["resps"]]
        if isinstance(answers[0], str):
            assert sample.answers == answers
        else:
            assert [lp for lp, _ in sample.answers] == pytest.approx([lp for lp, _ in answers], rel=1e-4)
            assert [greedy for _, greedy in sample.answers] == [greedy for _, greedy in answers]


def test_rolling_log_likelihoods_and_tasks_of_the_users_own(data):
    rows, _ = run(data, "plain")
    expected = oracle(data, "plain")["results"]["plain"]
    assert {row.metric: row.score for row in rows} == pytest.approx(
        {metric: expected[f"{metric},none"] for metric in ("bits_per_byte", "word_perplexity")}, rel=1e-4
    )
    assert {row.unit for row in rows} == {""} and not math.isnan(rows[0].interval[0])


def test_worked_examples_are_drawn_by_the_seed(data):
    first, same, other = (run(data, "arc_easy", shots=2, limit=3, seed=seed)[1] for seed in (1, 1, 5))
    assert [s.prompt for s in first] == [s.prompt for s in same] != [s.prompt for s in other]


def test_the_chat_template_stands_around_prompts_and_is_told(data):
    rows, samples = run(data, "arc_easy", chat=True, limit=2)
    assert samples[0].prompt.startswith("User: ") and samples[0].prompt.endswith("Assistant:")
    assert rows[0].template == "ours"


def test_prompts_that_lost_their_beginning_are_counted_by_document(data):
    rows, samples = run(data, "arc_easy", small_model(context=32), shots=2)
    assert rows[0].truncated == sum(sample.truncated for sample in samples) == 10


def test_a_group_is_scored_over_all_documents(data, tmp_path):
    write_arc(tmp_path, 4, "one"), write_arc(tmp_path, 8, "two", seed=2)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: hub/{name}\noutput_type: multiple_choice\ntest_split: test\n"
            "doc_to_text: '{{question}}'\ndoc_to_target: '{{choices.label.index(answerKey)}}'\n"
            "doc_to_choice: '{{choices.text}}'\nmetric_list:\n  - metric: acc\n"
        )
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [one, two]\naggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n"
    )
    rows, _ = run(tmp_path, "both")
    expected = oracle(tmp_path, "both")["groups"]["both"]["acc,none"]
    assert [(row.task, row.group, row.n) for row in rows] == [
        ("both", None, 12),
        ("one", "both", 4),
        ("two", "both", 8),
    ]
    assert rows[0].score == pytest.approx(100 * expected)


# --- what lies in the folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ai2_arc/ARC-Easy/test.jsonl", "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet",
                                   "arc_easy_test.jsonl", "arc_easy.json", "ai2_arc/data/ARC-Easy/test.parquet"])  # fmt: skip
def test_data_is_found_as_a_repository_has_it_or_by_the_tasks_name(data, tmp_path, place):
    import datasets

    found = datasets.Dataset.from_json(str(data / "arc_easy" / "test.jsonl"), cache_dir=str(tmp_path / "cache"))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (found.to_parquet if place.endswith("parquet") else found.to_json)(str(tmp_path / place))
    assert [s.scores for s in run(tmp_path, "arc_easy")[1]] == [s.scores for s in run(data, "arc_easy")[1]]


def test_dates_stay_text(tmp_path):
    write_lines(tmp_path / "gsm8k" / "test.jsonl", [{"question": "2020-01-01", "answer": "#### 2020-01-01"}] * 2)
    assert run(tmp_path, "gsm8k")[1][0].prompt == "Question: 2020-01-01\nAnswer:"


@pytest.mark.parametrize(("name", "shots", "said"), [
    ("hellaswag", 0, "no data of hellaswag.*hellaswag/validation.jsonl"),
    ("arc_challenge", 0, "no data of arc_challenge"),
    ("gsm8k", 3, "takes its 3 worked examples from the split 'train'.*--shots 0"),
])  # fmt: skip
def test_what_is_missing_is_named(tmp_path, name, shots, said):
    write_lines(tmp_path / "gsm8k.jsonl", [{"question": "1?", "answer": "#### 1"}])
    with pytest.raises(DataError, match=said):
        run(tmp_path, name, shots=shots)


def test_columns_of_another_data_set_are_a_sentence(tmp_path):
    write_lines(tmp_path / "gsm8k.jsonl", [{"text": "1?"}])
    with pytest.raises(DataError, match="lm-eval cannot load gsm8k"):
        run(tmp_path, "gsm8k")


def test_an_unknown_task_is_compared_with_the_known(data):
    with pytest.raises(ConfigError, match=r"there is no task 'gsm8kk'.*gsm8k"):
        run(data, "gsm8kk")
