"""Small language models, their training and their evaluation.

Importing this loads neither torch nor transformers. Whenever transformers' Auto classes come up, before or after, they
learn the model types below; the classes behind them are imported when the first such model is asked for, because
Auto classes come up in the middle of importing the very modules that ours extend."""

from types import ModuleType

from wrapt import lazy_import, register_post_import_hook


def _register(configuration_auto: ModuleType) -> None:
    for model_type, module, configuration in (
        ("tiny_gpt_neo", "tiny_transformers.models.gpt_neo", "TinyGPTNeoConfig"),
        ("tiny_roberta", "tiny_transformers.models.roberta", "TinyRobertaConfig"),
        ("tiny_brainformer", "tiny_transformers.models.brainformer", "TinyBrainformerConfig"),
    ):
        configuration_auto.CONFIG_MAPPING.register(model_type, lazy_import(module, configuration))


register_post_import_hook(_register, "transformers.models.auto.configuration_auto")
