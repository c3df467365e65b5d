"""Small language models, their training and their evaluation.

Importing this loads neither torch nor transformers. Whenever transformers' Auto classes come up, before or after, they
learn the model types below; the classes behind them are imported when the first such model is asked for, because
Auto classes come up in the middle of importing the very modules that ours extend."""

import sys
from functools import cache
from types import ModuleType


class _Watch:
    """Stands among Python's finders and sees when transformers is looked for. wrapt, which waits for the Auto classes,
    loads asyncio, so that a command that loads no transformers is better off without it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "transformers":
            _await_auto_classes()


@cache
def _await_auto_classes() -> None:
    from wrapt import register_post_import_hook

    register_post_import_hook(_register, "transformers.models.auto.configuration_auto")


def _register(configuration_auto: ModuleType) -> None:
    from wrapt import lazy_import

    for model_type, module, configuration in (
        ("tiny_gpt_neo", "tiny_transformers.models.gpt_neo", "TinyGPTNeoConfig"),
        ("tiny_roberta", "tiny_transformers.models.roberta", "TinyRobertaConfig"),
        ("tiny_llama", "tiny_transformers.models.llama", "TinyLlamaConfig"),
        ("tiny_brainformer", "tiny_transformers.models.brainformer", "TinyBrainformerConfig"),
    ):
        configuration_auto.CONFIG_MAPPING.register(model_type, lazy_import(module, configuration))


if "transformers" in sys.modules:
    _await_auto_classes()
else:
    sys.meta_path.insert(0, _Watch)
