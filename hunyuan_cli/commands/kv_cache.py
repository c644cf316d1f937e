"""`hunyuan kv-cache`: the memory of keys and values by attention variant, what fits, and how fast it can be read."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.files import save_figure
from hunyuan_cli.options.common import Format, Models, ModelSet, Output, Plot
from hunyuan_cli.options.sizes import known, parse_bytes, parse_context, parse_count, parse_fraction, parse_list
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.kv_cache import document_tables

if TYPE_CHECKING:
    from model.config.storage import Storage
    from model.config.variants import Variant

_FITS = "What fits, and how fast"

Contexts = Annotated[str, typer.Option("--context", metavar="TOKENS,...", help="Context lengths, such as 8K,32K,256K.")]
Batches = Annotated[str, typer.Option("--batch", metavar="N,...", help="Sequences at once, such as 1,8,64.")]
Formats = Annotated[
    str, typer.Option("--dtype", metavar="NAME,...", help="Cache formats: bf16, fp16, fp32, fp8, int8, int4.")
]
GroupSize = Annotated[
    int,
    typer.Option("--group-size", min=1, max=10**9, help="Values that share a scale and a zero point in int8 and int4."),
]
VariantNames = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="MHA, GQA:8, MQA, CLA:2, MLA:512:64, SWA:4096, joined by + in a layer; by / and *n between layers, such as "
        "GQA+SWA:1024*5/GQA; repeatable.",
    ),
]
Measure = Annotated[bool, typer.Option("--measure", help="Also allocate the real cache and compare; loads torch.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="BYTES", help="Memory of one device, such as 141GB.", rich_help_panel=_FITS),
]
Bandwidth = Annotated[
    str | None,
    typer.Option("--bandwidth", metavar="BYTES", help="Memory bytes a second, such as 4.8TB.", rich_help_panel=_FITS),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu", metavar="NAME", help="A device that has both, such as h200 or mi300x.", rich_help_panel=_FITS
    ),
]
Devices = Annotated[int, typer.Option("--devices", min=1, max=10**6, help="Devices in all.", rich_help_panel=_FITS)]
TensorParallel = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel", min=1, max=10**6, help="Devices of one replica; by default all.", rich_help_panel=_FITS
    ),
]
DataParallelAttention = Annotated[
    bool,
    typer.Option(
        "--dp-attention",
        help="Each device of a replica attends for sequences of its own, as latent attention is served.",
        rich_help_panel=_FITS,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights", metavar="NAME", help="Format of the weights: bf16, fp8, int8, int4.", rich_help_panel=_FITS
    ),
]
Reserve = Annotated[
    str,
    typer.Option("--reserve", metavar="SHARE", help="Share of the memory that is kept free.", rich_help_panel=_FITS),
]
BlockSize = Annotated[
    int, typer.Option("--block-size", min=1, max=10**9, help="Tokens in a page of the cache.", rich_help_panel=_FITS)
]
PrefillChunk = Annotated[
    str,
    typer.Option("--prefill-chunk", metavar="TOKENS", help="Tokens of a prompt in one pass.", rich_help_panel=_FITS),
]


def kv_cache(
    model: Models = None,
    settings: ModelSet = None,
    context: Contexts = "256K",
    batch: Batches = "1",
    dtype: Formats = "bf16",
    group_size: GroupSize = 64,
    variant: VariantNames = None,
    measure: Measure = False,
    memory: Memory = None,
    bandwidth: Bandwidth = None,
    gpu: Gpu = None,
    devices: Devices = 1,
    tensor_parallel: TensorParallel = None,
    data_parallel_attention: DataParallelAttention = False,
    weights: Weights = "bf16",
    reserve: Reserve = "10%",
    block_size: BlockSize = 16,
    prefill_chunk: PrefillChunk = "8K",
    plot: Plot = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Key-value-cache memory of MHA, GQA, MQA, CLA and GQA+CLA; what fits in a memory; decoding speed at its limit.

    Example: hunyuan kv-cache --model hunyuan-large --context 8K,32K,128K,256K

    What fits: hunyuan kv-cache --gpu h200 --devices 8 --weights fp8 --context 32K,256K --batch 1,8 --plot fits.png

    Side by side: hunyuan kv-cache --model hunyuan-large --model deepseek-v2 --context 128K
    """
    from analyses.devices import DEVICES
    from analyses.memory import serving as budget
    from analyses.memory.kv_cache import kv_cache_rows
    from hunyuan_cli.models import model_shapes
    from model.config.storage import STORAGE
    from model.config.variants import own_variant, variants_of

    contexts, batches = parse_list(context, parse_context), parse_list(batch, parse_count)
    dtypes = dict.fromkeys(name.strip() for name in dtype.split(","))
    storages = [known("--dtype", name, STORAGE).with_group(group_size) for name in dtypes]
    stored_weights = known("--weights", weights, budget.WEIGHTS)
    device = known("--gpu", gpu, DEVICES) if gpu else None
    room = parse_bytes(memory) if memory else device.memory if device else None
    speed = parse_bytes(bandwidth.removesuffix("/s")) if bandwidth else device.bandwidth if device else None

    chosen = model_shapes(model or ["hunyuan-large"], settings)
    variants = []
    for shape in chosen:  # of one model its variants; of several each as it is, side by side
        variants += variants_of(shape, variant or ([own_variant(shape)] if len(chosen) > 1 else ()))
    servings = [
        budget.Serving(
            memory=room or 0,
            devices=devices,
            tensor_parallel=tensor_parallel,
            data_parallel_attention=data_parallel_attention,
            weights=stored_weights,
            cache=storage,
            reserve=parse_fraction(reserve),
            block_size=block_size,
            prefill_chunk=parse_context(prefill_chunk),
        )
        for storage in storages
    ]
    document: dict[str, Any] = {
        "model": _one([shape.name for shape in chosen]),
        "context": _one(contexts),
        "batch": _one(batches),
        "dtype": _one([storage.name for storage in storages]),
        "rows": kv_cache_rows(variants, contexts=contexts, batches=batches, storages=storages),
    }
    if room:
        document["largest_batch"] = budget.largest_batch_rows(variants, servings, contexts)
        document["longest_context"] = budget.longest_context_rows(variants, servings, batches)
    if speed:
        document["decoding"] = budget.decode_rows(variants, servings, contexts, batches, bandwidth=speed)
    if measure:
        document["measured"] = _measure(variants, settings, max(contexts), max(batches), storages)
    if room or speed:
        document["notes"] = budget.serving_notes(variants, servings[0])
    kind = result_format(format, output)
    notes = [f"note: {note}" for note in document.get("notes", [])]
    emit(
        document_tables(document) if kind == "table" else document,
        format=kind,
        output=output,
        note="\n".join(["* the model's own", *notes]),
    )
    if plot is not None:
        from analyses.memory.kv_cache_plots import plot_kv_cache

        save_figure(plot_kv_cache(variants, servings[0], batch=batches[0], contexts=contexts), plot)


def _one(values: list[Any]) -> Any:
    """The value where there is one, all of them where there are several."""
    return values[0] if len(values) == 1 else values


def _measure(
    variants: "list[Variant]", settings: list[str] | None, context: int, batch: int, storages: "list[Storage]"
) -> list[dict[str, Any]]:
    """The real cache of every variant that this project builds."""
    from analyses.memory.kv_cache import check_measured, measure_cache
    from hunyuan_cli.models import model_values
    from model.config.architectures import buildable_config

    check_measured(storages)
    names = dict.fromkeys(variant.shape.name for variant in variants)
    configs = {name: buildable_config(model_values(name, settings), name) for name in names}
    rows = []
    with progress("allocating caches", total=len(variants) * len(storages)) as advance:
        for variant in variants:
            name = variant.shape.name
            for storage in storages:
                row = measure_cache(configs[name], variant, context=context, batch=batch, storage=storage)
                if row is None:
                    stderr(f"{name} {variant.name} is not built here: not measured")
                elif row["context"] < context:
                    stderr(f"{name} {variant.name} at {context:,} tokens does not fit: measured at {row['context']:,}")
                rows += [row] if row else []
                advance(1)
    return rows
