"""Ways to run a model, and the one script that each of them runs. Nothing here imports llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from recordings.models import Kind

F16, Q4_0, Q8_0 = 1, 2, 8


@dataclass(frozen=True)
class Variant:
    """Of a context. ``key`` and ``value`` are the types of the cache; a quantized ``value`` needs flash attention."""

    name: str
    flash: bool = False
    key: int = F16
    value: int = F16
    unified: bool = False
    n_batch: int = 48
    n_ubatch: int = 16


PLAIN = Variant("plain")
FLASH = Variant("flash", flash=True)
FLASH_Q8 = Variant("flash-q8", flash=True, key=Q8_0, value=Q8_0)
FLASH_Q4 = Variant("flash-q4", flash=True, key=Q4_0, value=Q4_0)
KEY_Q8 = Variant("key-q8", key=Q8_0)
UNIFIED = Variant("unified", unified=True)
WHOLE = Variant("whole", n_batch=256, n_ubatch=256, unified=True)
FLASH_WHOLE = Variant("flash-whole", n_batch=256, n_ubatch=256, unified=True, flash=True)

ALL: dict[Kind, tuple[Variant, ...]] = {
    "decoder": (PLAIN, FLASH, FLASH_Q8, FLASH_Q4, KEY_Q8, UNIFIED, FLASH_WHOLE),
    "float_cache": (PLAIN, FLASH, FLASH_WHOLE),
    "embedding": (WHOLE, FLASH_WHOLE),
    "encoder_decoder": (WHOLE, FLASH_WHOLE),
}
# What the tests run of each model: both ways of attention, with and without a quantized cache.
FEW: dict[Kind, tuple[Variant, ...]] = {
    "decoder": (PLAIN, FLASH_Q8),
    "float_cache": (FLASH,),
    "embedding": (WHOLE,),
    "encoder_decoder": (WHOLE,),
}
BY_NAME = {variant.name: variant for variants in ALL.values() for variant in variants}
