from tiny_transformers.settings import stages  # noqa: F401 - whose settings are sections of a run's
