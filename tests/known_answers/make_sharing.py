"""Write sharing.json: which layers the code of Takase & Kiyono (arXiv:2104.06022) shares, so that ours are held to it.

    git clone https://github.com/takase/share_layer_params FOLDER
    git -C FOLDER checkout c78ca78d74e01db8aa3752c5ca7d28fc8476323d
    python tests/known_answers/make_sharing.py FOLDER

The statement by which its encoder makes its layers is run with numbers in place of layers. Only the maps are kept, and
none of that code. tests/tiny_transformers/models/test_as_the_originals.py reads them."""

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = Path(__file__).with_name("sharing.json")
STRATEGIES = {"seq": "sequence", "cycle": "cycle", "cycle_rev": "cycle_reverse"}  # ours -> theirs


def main(folder: Path) -> None:
    source = (folder / "fairseq" / "models" / "transformer.py").read_text()
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    encoder = next(node for node in classes if node.name == "TransformerEncoder")
    statements = next(node for node in encoder.body if getattr(node, "name", None) == "__init__").body  # type: ignore[attr-defined]
    making = next(node for node in statements if ast.unparse(node).startswith("if self.share_params_cross_layer:"))
    code = compile(ast.Module([making], []), "transformer.py", "exec")
    sizes = [(unique, unique * times) for unique in range(2, 7) for times in (2, 3, 4)]
    maps = {
        ours: {f"{unique},{layers}": made(code, theirs, unique, layers) for unique, layers in sizes}
        for ours, theirs in STRATEGIES.items()
    }
    FILE.write_text(json.dumps(maps, indent=1) + "\n")


def made(code: Any, strategy: str, unique: int, layers: int) -> str:
    """The number of each place's layer, in the order in which they come."""
    times = layers // unique
    encoder = SimpleNamespace(share_params_cross_layer=True, share_type=strategy, share_layer_num=times, layers=[])
    names = {
        "self": encoder, "args": SimpleNamespace(encoder_layers=layers),
        "TransformerEncoderLayer": lambda _, LayerNum: LayerNum, "CopyParams": lambda base, _: base,
    }  # fmt: skip
    exec(code, names)
    numbers = list(dict.fromkeys(encoder.layers))
    return " ".join(str(numbers.index(layer)) for layer in encoder.layers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
