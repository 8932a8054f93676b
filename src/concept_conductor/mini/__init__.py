"""The embedded model `mini`: a small Stable Diffusion of a world of stickers, with its data and its judge.

designs (icons -> atlas) -> world (scenes) -> tokenizer, vae -> unet (with its text encoder) -> report.
The judge sees the same world and says what stands where in an image.
"""

from pathlib import Path

NAME = "mini"
FOLDER = Path(__file__).parent
MODEL_FOLDER = FOLDER / "weights"
"""The model as a diffusers folder, with `conductor.json`."""
CONCEPTS_FOLDER = FOLDER / "concepts"
"""ED-LoRA files of held-out designs."""
JUDGE_FILE = MODEL_FOLDER / "judge.safetensors"
"""Weights of `judge.Judge`."""
ATLAS_FILE = FOLDER / "atlas.png"
"""One RGBA cell per design; `atlas.json` beside it says which is which."""


def is_embedded(model: str | Path) -> bool:
    """Return whether ``model`` is what users call the embedded model: "mini"."""
    return str(model) == NAME


def judge_file(model: str | Path) -> Path:
    """Return where a model's judge lies if it has one: "mini", or another model's folder."""
    return JUDGE_FILE if is_embedded(model) else Path(model) / JUDGE_FILE.name
