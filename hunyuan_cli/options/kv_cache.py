"""The options of `hunyuan kv-cache`, and how its devices and memories are read."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from hunyuan_cli.options.sizes import parse_bytes

_FITS = "What fits, and how fast"
_MEGABYTE = 10**6

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
TableName = Annotated[
    Literal["rows", "largest_batch", "longest_context", "decoding", "measured"] | None,
    typer.Option("--table", help="Only this table; csv has one, by default the rows of bytes."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Memory of one device, such as 141GB.", rich_help_panel=_FITS),
]
Bandwidth = Annotated[
    str | None,
    typer.Option("--bandwidth", metavar="SIZE", help="Memory read in a second, such as 4.8TB.", rich_help_panel=_FITS),
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu",
        metavar="NAME,...",
        help="A device that has both, such as h200, 4090 or mi300x; several are compared.",
        rich_help_panel=_FITS,
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
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Format of the weights: bf16, fp8, int8, int4. By default that of the model's quantization_config, or bf16.",
        rich_help_panel=_FITS,
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


@dataclass(frozen=True)
class Place:
    """A device that a model may be served on; 0 is not known."""

    gpu: str = ""
    memory: int = 0  # bytes
    bandwidth: int = 0  # bytes a second


def places_of(gpus: list[str] | None, memory: str | None, bandwidth: str | None) -> list[Place]:
    """The devices that are compared, once each. A memory or bandwidth that is given counts for all of them."""
    from analyses.devices import DEVICES, find_device

    room = _device_bytes("--memory", memory, "80GB") if memory else 0
    speed = _device_bytes("--bandwidth", bandwidth.removesuffix("/s"), "3350GB") if bandwidth else 0
    names = dict.fromkeys(
        find_device(name, ", or give --memory and --bandwidth") for given in gpus or [] for name in given.split(",")
    )
    if not names:
        return [Place(memory=room, bandwidth=speed)]
    return [Place(name, room or DEVICES[name].memory, speed or DEVICES[name].bandwidth) for name in names]


def _device_bytes(option: str, text: str, example: str) -> int:
    """A size that a device can have: `80` is refused, for it means 80 bytes and was meant as 80GB."""
    try:
        bare = float(text) < _MEGABYTE
    except ValueError:
        bare = False
    if bare:
        raise typer.BadParameter(f"{option} '{text}' is in bytes: write a unit, such as {example}")
    return parse_bytes(text)
