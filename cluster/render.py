"""Templates -> text. jinja2, strict: an unknown variable is an error, not an empty string. HTML's are escaped."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from cluster.errors import InputError

FOLDER = Path(__file__).parents[1] / "templates"  # beside `cluster`, in a checkout and when installed


def render(template: str, **values: Any) -> str:
    """`template`: a name in templates/, or the path of a user's own, which may extend those.

    Raises InputError if it is not there or wrong."""
    import jinja2  # here, because most commands render nothing

    own = Path(template)
    loaders: list[jinja2.BaseLoader] = [jinja2.FileSystemLoader(FOLDER)]
    if own.is_file():
        loaders.insert(0, jinja2.FileSystemLoader(own.parent))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2", "html")),
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    try:
        return environment.get_template(own.name).render(**values)
    except jinja2.TemplateError as error:
        raise InputError(f"template {template}: {type(error).__name__}: {error}") from None
