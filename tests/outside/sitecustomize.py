"""Loads the module that OUTSIDE names into every Python process that has this folder on its PYTHONPATH: what it adds is
known to the commands and to the jobs alike."""

import importlib
import os

importlib.import_module(os.environ["OUTSIDE"])
