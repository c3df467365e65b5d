"""YAML as people write it: read safely, and refused where YAML 1.1 would silently take it for something else."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cluster.errors import InputError

# Octal (042 is 34, and 08 is a text) and of base 60 (16:00 is 960), each with a fraction or without.
OTHERWISE = re.compile(r"[-+]?(0[\d_]+|\d[\d_]*(:[0-5]?\d)+)(\.[\d_]*)?")
PLAIN = (None, "")  # how a scalar without quotes is styled

# libyaml reads a list of 25,000 seeds in a tenth of the time, where PyYAML was built with it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Safe, and refuses a key written twice, of which YAML would silently keep the last, and numbers that are not read
    as they look."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is here twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if node.style in PLAIN and OTHERWISE.fullmatch(node.value):
            advice = f"put it in quotes if it is text: '{node.value}'"
            if ":" not in node.value:
                advice = f"write {node.value.replace('0', '', 1)} for a number; {advice}"
            problem = f"{node.value} is not read as it looks (YAML has numbers of base 8 and 60): {advice}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)


def read(text: str, where: str) -> Any:
    """Return what a YAML text says. Raises InputError, which says `where`, the line and what is wrong with it."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark if "\n" in text else None
        line = f", line {mark.line + 1}" if mark else ""
        what = "" if isinstance(error, yaml.constructor.ConstructorError) else "not valid YAML: "
        context = f"{error.context}: " if error.context else ""
        begun = text.split("\n")[mark.line].lstrip(" ") if mark else ""
        tab = " It begins with a tab: YAML takes spaces only." if begun.startswith("\t") else ""
        raise InputError(f"{where}{line}: {what}{context}{error.problem}.{tab}") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from None
