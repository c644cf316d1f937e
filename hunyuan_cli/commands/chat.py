"""`hunyuan chat`: a conversation with a model, in turns."""

from hunyuan_cli.console import stderr
from hunyuan_cli.options import generation as options
from hunyuan_cli.options.common import Device, Seed
from hunyuan_cli.views.chat import ChatSession, refuse_taken
from hunyuan_cli.views.generation import open_engine

TOKENS = 512  # new ones, where neither the command line nor the folder says how many


def chat(
    *,
    checkpoint: options.Checkpoint,
    system: options.System = None,
    thinking: options.Thinking = None,
    load: options.Load = None,
    save: options.Save = None,
    max_new_tokens: options.NewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: Seed = 0,
    stop: options.Stop = None,
    dtype: options.DType = None,
    weights: options.Weights = None,
    device: Device = "auto",
    experts: options.ExpertsAt = "memory",
    expert_cache: options.ExpertCache = options.DEFAULT_EXPERT_CACHE,  # type: ignore[assignment]
    stats: options.Stats = False,
) -> None:
    """Talk with a model: a line is a message, /help shows what else can be done.

    Example: hunyuan chat --checkpoint runs/first --temperature 0.7 --save talk.json
    """
    from model.generation.conversation import Conversation
    from model.generation.defaults import merge

    choices = options.sampling_choices(
        stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    files = {load.resolve()} if load else set()
    if save is not None:
        refuse_taken(save, files)
    conversation = Conversation.load(load) if load else Conversation()
    if system is not None:
        conversation.set_system(system)
    engine = open_engine(
        checkpoint, dtype=dtype, weights=weights, device=device, experts=experts, expert_cache=expert_cache
    )
    if not engine.has_template:
        stderr("this folder brings no chat template: a plain transcript of User: and Assistant: stands in")
    variables = {} if thinking is None else {"enable_thinking": thinking}
    for name in engine.template.unread([], variables=variables):
        stderr(f"the chat template does not ask for {name}: --thinking has no effect")
    ChatSession(
        engine, conversation, merge(engine.defaults, **choices), engine.defaults.token_limit(max_new_tokens, TOKENS),
        seed=seed, stop=stop or [], variables=variables, save_to=save, files=files, stats=stats,
    ).run()  # fmt: skip
