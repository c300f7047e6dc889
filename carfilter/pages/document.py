"""A page out of a template: one file that loads nothing."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import Any

from carfilter.errors import CarfilterError


def render(wing: str, template: str, /, **values: Any) -> str:
    """Fill the template carfilter/<wing>/<template>, which may include what lies in pages/.

    Raises:
        CarfilterError: jinja2 is missing, which torch installs.
    """
    try:
        import jinja2
    except ImportError as error:
        raise CarfilterError("a page needs jinja2; pip install jinja2") from error
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda part: read_part(part)),
    )
    text = files("carfilter").joinpath(wing, template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)


def read_part(name: str) -> str:
    """Return the text of a file in pages/: style.css, compare.js."""
    return files("carfilter").joinpath("pages", name).read_text(encoding="utf-8")


def data_uri(picture: bytes) -> str:
    """Return a WebP picture as a page holds it."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
