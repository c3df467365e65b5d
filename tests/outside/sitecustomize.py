"""Loads what comes from elsewhere into every Python process that has this folder on its PYTHONPATH: what each module
adds is known to the commands and to the jobs alike."""

import importlib

for module in ("bilinear", "embedding_share", "sine"):
    importlib.import_module(module)
