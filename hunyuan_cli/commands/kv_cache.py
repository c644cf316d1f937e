"""`hunyuan kv-cache`: the memory of keys and values by attention variant, what fits, and how fast it can be read."""

import hunyuan_cli.options.kv_cache as options
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Models, ModelSet, Output, Plot
from hunyuan_cli.options.models import CountAs, counted_models
from hunyuan_cli.options.sizes import known, parse_context, parse_count, parse_fraction, parse_list
from hunyuan_cli.views.kv_cache import measured_rows, show_document


def kv_cache(
    model: Models = None,
    settings: ModelSet = None,
    counted_as: CountAs = None,
    context: options.Contexts = "256K",
    batch: options.Batches = "1",
    dtype: options.Formats = "bf16",
    group_size: options.GroupSize = 64,
    variant: options.VariantNames = None,
    measure: options.Measure = False,
    memory: options.Memory = None,
    bandwidth: options.Bandwidth = None,
    gpu: options.Gpus = None,
    devices: options.Devices = 1,
    tensor_parallel: options.TensorParallel = None,
    data_parallel_attention: options.DataParallelAttention = False,
    weights: options.Weights = None,
    reserve: options.Reserve = "10%",
    block_size: options.BlockSize = 16,
    prefill_chunk: options.PrefillChunk = "8K",
    table: options.TableName = None,
    plot: Plot = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Key-value-cache memory of MHA, GQA, MQA, CLA and GQA+CLA; what fits in a memory; decoding speed at its limit.

    Example: hunyuan kv-cache --model hunyuan-large --context 8K,32K,128K,256K

    What fits: hunyuan kv-cache --gpu h100 --gpu h200 --devices 8 --weights fp8 --context 32K,256K --plot fits.png

    Side by side: hunyuan kv-cache --model hunyuan-large --model deepseek-v2 --context 128K
    """
    from analyses.memory.report import Question, kv_cache_report
    from analyses.memory.serving import WEIGHTS, Serving
    from model.config.storage import STORAGE

    names = dict.fromkeys(name.strip() for name in dtype.split(","))
    storages = [known("--dtype", name, STORAGE).with_group(group_size) for name in names]
    question = Question(
        models=counted_models(model, settings, counted_as),
        variants=variant or (),
        contexts=parse_list(context, parse_context),
        batches=parse_list(batch, parse_count),
        storages=storages,
        servings=[
            Serving(
                gpu=place.gpu,
                memory=place.memory,
                bandwidth=place.bandwidth,
                devices=devices,
                tensor_parallel=tensor_parallel,
                data_parallel_attention=data_parallel_attention,
                cache=storage,
                reserve=parse_fraction(reserve),
                block_size=block_size,
                prefill_chunk=parse_context(prefill_chunk),
            )
            for place in options.places_of(gpu, memory, bandwidth)
            for storage in storages
        ],
        weights=known("--weights", weights, WEIGHTS) if weights else None,
    )
    document = kv_cache_report(question)
    if measure:
        document["measured"] = measured_rows(question)
    show_document(document, table=table, format=format, output=output)
    if plot is not None:
        from analyses.memory.kv_cache_plots import plot_kv_cache

        save_figure(plot_kv_cache(question.series, batch=question.batches[0], contexts=question.contexts), plot)
