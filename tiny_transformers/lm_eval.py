"""lm-eval's own command line, with the model class `tiny-transformers` known to it.

    python -m tiny_transformers.lm_eval --model tiny-transformers --model_args pretrained=DIR --tasks ...

lm-eval 0.4 looks for models among its own and among what has been registered in the process, so somebody must import
the class first. All arguments are lm-eval's; every other model works, too."""

from __future__ import annotations

import sys

from lm_eval.__main__ import cli_evaluate

from tiny_transformers.common.work import CheckFailed, TinyTransformersError
from tiny_transformers.evaluation import lm_eval_model  # noqa: F401 - registers the class


def main() -> None:
    try:
        cli_evaluate()
    except (TinyTransformersError, CheckFailed) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
