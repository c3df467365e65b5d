"""A decoder whose texts are padded on the left learns as Hugging Face's GPT-Neo, or Llama, does."""

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM
from variants import SMALL, perturb, small, tokens

from tiny_transformers.models import auto

LENGTH = 12
FAMILIES = pytest.mark.parametrize("family", ["gpt_neo", "llama"])


def stock_and_ours(family="gpt_neo"):
    """Hugging Face's model and ours, of equal weights; a GPT-Neo's second layer's attention looks 4 tokens back."""
    if family == "llama":
        layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
        stock = LlamaForCausalLM(LlamaConfig(**SMALL, **layers, pad_token_id=0))
    else:
        layers = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}
        stock = GPTNeoForCausalLM(GPTNeoConfig(**SMALL, **layers, pad_token_id=0))
    ours = auto.build(small(family, "swiglu" if family == "llama" else "gelu"), seed=1)
    stock.load_state_dict(perturb(ours).state_dict())
    return stock, ours


def padded(*padding):
    """So many paddings before each text; the first label of a text is foretold by the last of them."""
    ids = tokens(rows=len(padding), length=LENGTH)
    mask = torch.arange(LENGTH) >= torch.tensor(padding)[:, None]
    ids = ids.where(mask, 0)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.where(mask, -100)}


@FAMILIES
@pytest.mark.parametrize("padding", [(0, 7), (3, 1), (0, 0)], ids=str)
def test_loss_and_gradients_of_texts_padded_on_the_left_are_those_of_gpt_neo(padding, family):
    models, batch = stock_and_ours(family), padded(*padding)
    losses = [model.train()(**batch).loss for model in models]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in models]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@FAMILIES
def test_evaluation_has_the_loss_of_gpt_neo_too(family):
    models, batch = stock_and_ours(family), padded(7, 0)
    with torch.no_grad():
        stock, ours = (model.eval()(**batch).loss for model in models)
    torch.testing.assert_close(ours, stock)


@FAMILIES
def test_padding_before_a_text_does_not_see_the_text(family):
    model, batch = stock_and_ours(family)[1].train(), padded(5, 0)
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    hidden = model.base_model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden[0, 4].square().sum(), embedded)
    seen = gradient[0, :5].abs().amax(-1) > 0
    assert seen.tolist() == [family == "gpt_neo"] * 4 + [True]  # a Llama's sees itself alone
    assert not gradient[0, 5:].any()
