"""Small trainings: what their data is made of, and what is asked about one."""

import json

import numpy as np

FAMILIES = ("gpt_neo", "roberta")
EVERY_FAMILY = (*FAMILIES, "llama")
NOUNS, VERBS = ("cat", "dog", "girl", "boy", "bird"), ("sees", "likes", "finds", "helps")
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
VOCAB_SIZE = 20
TINY = {
    "hidden_size": 32, "intermediate_size": 32, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 40,
    "activation": "learnable_gelu",
}  # fmt: skip


def sentences(count, seed):
    """the cat sees the dog . the girl likes ..., of one to four sentences."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        parts = [
            f"the {generator.choice(NOUNS)} {generator.choice(VERBS)} the {generator.choice(NOUNS)} ."
            for _ in range(generator.integers(1, 5))
        ]
        yield " ".join(parts)


def weights(work):
    return (work.model_dir / "model.safetensors").read_bytes()


def curve(work):
    """The lines without their times, which no two runs share."""
    records = [json.loads(line) for line in (work.run_dir / "curve.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def stop_at(work, step):
    """Ask to stop as soon as so much is done, in steps."""
    done = []
    work.progress = lambda fraction, _: done.append(fraction * work.config.train.max_steps)
    work.should_stop = lambda: bool(done) and done[-1] >= step - 1e-9


def checkpoints(work):
    return sorted(path.name for path in (work.run_dir / "checkpoints").iterdir())
