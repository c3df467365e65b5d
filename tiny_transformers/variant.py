"""How a model of ours differs from Hugging Face's: its blocks are changed after the constructor.

By then every weight of the stock model has been drawn, so equal seeds give equal weights in all that a variant shares
with the stock model. A family says which blocks it has (`blocks`) and what becomes of one (`change`)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers import initialization as init

from tiny_transformers.activations import LearnableGELU


class Variant(PreTrainedModel):
    """To be named before a model class of Hugging Face among the bases."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for block in self.blocks():
            self.change(block)
        self.init_weights()  # of what is new: Hugging Face marks what it has done

    def blocks(self) -> Any:
        """The blocks of the model, in order."""
        raise NotImplementedError

    def change(self, block: Any) -> None:
        """Replace what differs in a block of the stock model, in place."""
        raise NotImplementedError

    def initialize_weights(self) -> None:
        """The family's rule, N(0, 0.02) and zero biases, after what it does not know of.

        `from_pretrained` calls this too, for what a checkpoint lacks: it builds on the meta device, where a value set
        in a constructor is lost. (`_init_weights` is not asked about the modules of a head's inner, stock model.)"""
        for module in self.modules():
            if isinstance(module, LearnableGELU) and not getattr(module, "_is_hf_initialized", False):
                init.ones_(module.alpha)  # unless it was loaded
        super().initialize_weights()
