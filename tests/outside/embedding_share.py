"""A stage of someone else's: how much of a model its embeddings are. All that is said of it is in this file."""

from pydantic import PositiveInt

from tiny_transformers.common.work import Outcome, Score, Work
from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.stage.kind import Measure, StageKind, Tasks
from tiny_transformers.settings.stages import STAGES


class EmbeddingShare(Settings):
    digits: PositiveInt = 6  # that the share is rounded to


def run(work: Work) -> Outcome:
    from tiny_transformers.models.auto import load_lm

    model = load_lm(work.model_dir)
    embeddings, total = model.get_input_embeddings().weight.numel(), model.num_parameters()
    digits = work.config.evaluation.of(EmbeddingShare).digits
    shares = {"words": embeddings / total, "all": embeddings / total, "other": 1 - embeddings / total}
    return Outcome([Score(task, "share", round(share, digits), total) for task, share in shares.items()])


STAGES.add(
    StageKind(
        "embedding_share",
        runner=__name__,
        needs=("pretrain",),
        settings=EmbeddingShare,
        flops=lambda config: 3.6e12 * config.model.vocab_size,  # an hour of 1e13 FLOP/s for the usual one
        measures=(Measure("embedding_share", "embeddings", "embedding_share", "all", "share", is_main=True),),
        tasks=Tasks("embedding_share", "Parameters by their place", "share", averages=("all",)),
    )
)
