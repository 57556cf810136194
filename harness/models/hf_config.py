"""A config.json read as vLLM reads it: through transformers, which gives each family's settings the usual
names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from harness import files

# What families without a class in transformers call the usual settings.
OWN_NAMES = {
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"),
    "hidden_size": ("n_embd", "d_model"),
    "vocab_size": ("padded_vocab_size",),
}


def parse(text: str) -> Any:
    """A config.json's content, with {"__float__": "Infinity"}, which transformers writes, as a number.

    Raises ValueError as `files.parse_json` does.
    """
    return files.parse_json(text, _written_out, finite=False)


def _written_out(part: dict[str, Any]) -> Any:
    return float(part["__float__"]) if isinstance(part.get("__float__"), str) else part


def read(config: dict[str, Any]) -> Any:
    """The settings in a config.json's content, as attributes with transformers' names.

    It takes seconds, as transformers imports torch. A model type that transformers does not know, or does not
    accept with these values, is read as plain JSON: a model's own code never runs here.
    """
    from transformers import CONFIG_MAPPING

    model_type = str(config.get("model_type"))
    if model_type in CONFIG_MAPPING:
        with quiet():
            try:
                return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(config))
            except Exception as error:  # vLLM mends some of these before it reads them
                return plain(config | {"objection": " ".join(str(error).split())})
    return plain(config)


def plain(config: dict[str, Any]) -> SimpleNamespace:
    """The settings without transformers, for a config.json that leaves nothing to a default: in no time."""
    settings = SimpleNamespace(**config | {"model_type": str(config.get("model_type"))})
    for usual, names in OWN_NAMES.items():
        values = (config[name] for name in (usual, *names) if config.get(name) is not None)
        setattr(settings, usual, next(values, None))
    if isinstance(nested := config.get("text_config", config.get("llm_config")), dict):
        settings.text_config = plain(nested)
    return settings


def is_encoder_only(settings: Any) -> bool:
    """Whether transformers has a model of this type fill in masked tokens."""
    if isinstance(settings, SimpleNamespace):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return settings.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def language_model(config: Any) -> Any:
    """The part of the settings that describes the language model: all of them, or e.g. `text_config`."""
    if isinstance(config, SimpleNamespace):
        nested = getattr(config, "text_config", None)
        return nested if isinstance(nested, SimpleNamespace) else config
    return config.get_text_config()


def path_to(part: Any, config: Any) -> tuple[str, ...] | None:
    """The keys that lead to a part of the settings: none to all of them, None if it is not among them."""
    if part is config:
        return ()
    for name, value in vars(config).items():
        nested = isinstance(value, SimpleNamespace) or hasattr(value, "get_text_config")
        if nested and (rest := path_to(part, value)) is not None:
            return (name, *rest)
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings from transformers: a user of the harness could not act on them."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
