"""Templates -> text. jinja2, strict: an unknown variable is an error, not an empty string. HTML's are escaped."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any

from cluster.errors import InputError

FOLDER = Path(__file__).parents[1] / "templates"  # beside `cluster`, in a checkout and when installed


def render(template: str, **values: Any) -> str:
    """`template`: a name in templates/, or the path of a user's own, which may extend those.

    Raises InputError if it is not there or wrong."""
    import jinja2  # here, because most commands render nothing

    own = Path(template)
    environment = _environment(own.parent.resolve() if own.is_file() else None)
    try:
        return environment.get_template(own.name).render(**values)
    except jinja2.TemplateNotFound as error:
        there = own.parent if own.is_file() else f"{own.absolute()} and in templates/"
        raise InputError(f"template {template}: there is no {error.name}. It was looked for in {there}.") from None
    except jinja2.TemplateError as error:
        raise InputError(f"template {template}: {type(error).__name__}: {error}") from None


@cache
def _environment(folder: Path | None) -> Any:
    """Return jinja2's environment, which keeps the templates that it has compiled; of a user's own in `folder`, too."""
    import jinja2

    loaders: list[jinja2.BaseLoader] = [jinja2.FileSystemLoader(FOLDER)]
    if folder:
        loaders.insert(0, jinja2.FileSystemLoader(folder))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2", "html")),
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment
