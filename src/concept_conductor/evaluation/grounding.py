"""Text grounding: image + words -> segments, by Grounding DINO and SAM, or by the embedded model's judge.

Grounded-SAM (Ren et al., 2024): Grounding DINO finds boxes for words, SAM makes a mask in each box. The paper
measures with it (Algorithm 2, omission, redundancy), and a layout's masks can come from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.checkpoints import Checkpoint, best_device, pillow_processor, precision
from concept_conductor.inversion import content_hash
from concept_conductor.mini import JUDGE_FILE
from concept_conductor.mini.judge import Finding, Judge

GROUNDING_DINO = Checkpoint("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71")
SAM = Checkpoint("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67")

WORDS_PER_FORWARD = 4
"""How many words are looked for in one forward of Grounding DINO."""


class Segment(NamedTuple):
    """One object that was found.

    Attributes:
        words: what was looked for.
        score: 0..1, how sure the detector is.
        box: x0, y0, x1, y1 in pixels of the image.
        mask: bool ``(h, w)`` of the image's size; never empty.
    """

    words: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


class Grounder(Protocol):
    """Finds what words name."""

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """For each of ``words`` its segments in ``image``, best first, no two of them the same object.

        Raises:
            ConductorError: words that cannot be looked for.
        """
        ...

    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """The mask ``(h, w)`` of what is under each of ``points`` ``(x, y)`` in pixels of ``image``; empty for none."""
        ...

    def identity(self) -> str:
        """What tells this instrument's results from another's in a cache."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A grounder that can say what it sees where it does not find what it should."""

    def instead(self, image: Image.Image, words: str) -> str:
        """What there is instead of ``words``, as a part of a sentence."""
        ...


class JudgeGrounder:
    """The embedded model's judge: knows the classes of the sticker world, and no others.

    Args:
        judge: None for the one that is shipped.
        threshold: least score of an object, 0..1; the judge itself finds none below a half.
    """

    def __init__(self, judge: Judge | None = None, *, threshold: float = 0.0) -> None:
        self.judge = judge or Judge.load()
        self.threshold = checked_threshold("judge's", threshold)
        self.classes = list(dict.fromkeys(design.split("/")[0] for design in self.judge.designs))

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """See :meth:`Grounder.find`; each of ``words`` must hold one class ("a dog", "dog on the left", "two dogs")."""
        classes = [self.class_of(text) for text in words]
        findings = [finding for finding in self.judge.find(image) if finding.score >= self.threshold]
        return [
            sorted(
                (_segment(text, finding, image.size) for finding in findings if finding.class_name == name),
                key=lambda segment: -segment.score,
            )
            for text, name in zip(words, classes)
        ]

    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """See :meth:`Grounder.under`; of the classes that the judge knows."""
        masks = [_segment("", finding, image.size).mask for finding in self.judge.find(image)]
        nothing = np.zeros(image.size[::-1], dtype=bool)
        return [next((mask for mask in masks if mask[int(y), int(x)]), nothing) for x, y in points]

    def class_of(self, words: str) -> str:
        """The class that ``words`` hold.

        Raises:
            ConductorError: they hold none that is known, or several.
        """
        singular = {spelling: name for name in self.classes for spelling in (name, f"{name}s", f"{name}es")}
        held = list(dict.fromkeys(singular[word] for word in re.findall(r"\w+", words.lower()) if word in singular))
        if len(held) != 1:
            raise ConductorError(
                f"the words '{words}' name {'several' if held else 'none'} of the classes that the embedded judge "
                f"knows; expected exactly one of {', '.join(self.classes)}"
            )
        return held[0]

    def instead(self, image: Image.Image, words: str) -> str:
        """See :meth:`Explaining.instead`."""
        seen = [f"a {finding.class_name} ({finding.score:.2f})" for finding in self.judge.find(image)]
        return f"the judge sees {' and '.join(seen) or 'nothing that it knows'}; its threshold is {self.threshold:g}"

    def identity(self) -> str:
        """A hash of the judge's weights."""
        return f"judge {content_hash(self.judge.network.state_dict())[:16]} {self.threshold or ''}".strip()


def _segment(words: str, finding: Finding, size: tuple[int, int]) -> Segment:
    width, height = size
    mask = Image.fromarray(finding.mask).resize(size, Image.Resampling.NEAREST)
    left, top, right, bottom = finding.box
    box = (left * width, top * height, right * width, bottom * height)
    return Segment(words, finding.score, box, np.asarray(mask, dtype=bool))


class GroundedSam:
    """Grounding DINO and SAM through transformers; loaded when first used, and once.

    Each of the words is looked for on its own, so that no word takes another's box. Preprocessing is Pillow's,
    with torchvision or without.

    Args:
        device: None for the GPU where there is one; fp16 there.
        detector: Grounding DINO.
        segmenter: SAM.
        box_threshold: least score of a box, 0..1.
        text_threshold: least score of a token for it to belong to a box's phrase, 0..1; a box without phrase goes.
        overlap: of two boxes of one word with a larger IoU than this the surer stays.
        local_files_only: never ask the hub.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        detector: Checkpoint = GROUNDING_DINO,
        segmenter: Checkpoint = SAM,
        *,
        box_threshold: float = 0.30,
        text_threshold: float = 0.25,
        overlap: float = 0.5,
        local_files_only: bool = False,
    ) -> None:
        for name, value in (("box", box_threshold), ("text", text_threshold), ("overlap", overlap)):
            checked_threshold(name, value)
        self.device = best_device(device)
        self.detector, self.segmenter = detector, segmenter
        self.box_threshold, self.text_threshold, self.overlap = box_threshold, text_threshold, overlap
        self.local_files_only = local_files_only

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """See :meth:`Grounder.find`; words in plain English ("a dog"), in any case, with or without a full stop."""
        image = image.convert("RGB")
        texts = [caption(text) for text in words]
        distinct = list(dict.fromkeys(texts))
        detected = dict(zip(distinct, self._boxes(image, distinct)))
        boxes = torch.cat([detected[text][0] for text in distinct]) if distinct else torch.zeros(0, 4)
        masks = iter(self._masks(image, boxes))
        found = {
            text: [
                (score, (x0, y0, x1, y1), mask)
                for (x0, y0, x1, y1), score, mask in zip(detected[text][0].tolist(), detected[text][1].tolist(), masks)
                if mask.any()
            ]
            for text in distinct
        }
        return [[Segment(given, *parts) for parts in found[text]] for given, text in zip(words, texts)]

    @torch.inference_mode()
    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """See :meth:`Grounder.under`; of SAM's three readings (a subpart, a part, the whole) the surest."""
        if not points:
            return []
        masks, ious = self._segmented(image, multimask_output=True, input_points=[[[list(point)] for point in points]])
        return [mask[int(best)].numpy() for mask, best in zip(masks, ious.argmax(1))]

    def instead(self, image: Image.Image, words: str) -> str:
        """See :meth:`Explaining.instead`."""
        text = caption(words)
        lower = copy(self)  # shares the models, which are loaded by now
        lower.box_threshold, lower.text_threshold = 0.0, 0.0
        ((_, scores),) = lower._boxes(image.convert("RGB"), [text])
        best = f"the best candidate scores {float(scores[0]):.2f}" if len(scores) else "there is no candidate"
        return f"{best}, where the threshold is {self.box_threshold:g}"

    def identity(self) -> str:
        """Both models and the thresholds."""
        thresholds = f"{self.box_threshold} {self.text_threshold} {self.overlap}"
        return f"{self.detector.identity()} {self.segmenter.identity()} {thresholds}"

    @torch.inference_mode()
    def _boxes(self, image: Image.Image, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each text its boxes ``(n, 4)`` in pixels inside the image and scores ``(n,)``, surest first."""
        results: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(texts), WORDS_PER_FORWARD):
            results.extend(self._detect(image, texts[start : start + WORDS_PER_FORWARD]))
        return results

    def _detect(self, image: Image.Image, texts: Sequence[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        processor, model = self._detector
        pixels = processor.image_processor(images=[image], return_tensors="pt").to(self.device)
        tokens = processor.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.device)
        outputs = model(
            pixel_values=pixels["pixel_values"].to(model.dtype).expand(len(texts), -1, -1, -1),
            pixel_mask=pixels["pixel_mask"].expand(len(texts), -1, -1),
            **tokens,
        )
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        detections = processor.post_process_grounded_object_detection(
            outputs,
            tokens["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[image.size[::-1]] * len(texts),
        )
        for detection in detections:
            boxes, scores = detection["boxes"].cpu(), detection["scores"].cpu()
            boxes = torch.minimum(boxes.clamp(min=0), torch.tensor(image.size * 2))
            phrased = torch.tensor([bool(text.strip(" .")) for text in detection["text_labels"]], dtype=torch.bool)
            real = phrased & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
            boxes, scores = boxes[real], scores[real]
            kept = suppress(boxes, scores, self.overlap)
            yield boxes[kept], scores[kept]

    @torch.inference_mode()
    def _masks(self, image: Image.Image, boxes: torch.Tensor) -> list[NDArray[np.bool_]]:
        """A mask ``(h, w)`` for each of ``boxes`` ``(n, 4)``."""
        if not len(boxes):
            return []
        masks, _ = self._segmented(image, multimask_output=False, input_boxes=[boxes.tolist()])
        return [mask.numpy() for mask in masks[:, 0]]

    def _segmented(
        self, image: Image.Image, multimask_output: bool, **prompts: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SAM's masks ``(prompts, masks, h, w)``, boolean, and how good it thinks each is ``(prompts, masks)``."""
        processor, model = self._segmenter
        inputs = processor(images=image.convert("RGB"), **prompts, return_tensors="pt")
        given = {name: inputs[name].to(self.device, model.dtype) for name in ("pixel_values", *prompts)}
        outputs = model(**given, multimask_output=multimask_output)
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        masks = processor.image_processor.post_process_masks([outputs.pred_masks[0].float().cpu()], *sizes)[0]
        return masks, outputs.iou_scores[0].float().cpu()

    @cached_property
    def _detector(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor

        model = self._load_model(self.detector, GroundingDinoForObjectDetection)
        images = self._load(self.detector, pillow_processor("GroundingDinoImageProcessor"))
        return GroundingDinoProcessor(images, self._load(self.detector, AutoTokenizer)), model

    @cached_property
    def _segmenter(self) -> tuple[Any, Any]:
        from transformers import SamModel, SamProcessor

        model = self._load_model(self.segmenter, SamModel)
        return SamProcessor(self._load(self.segmenter, pillow_processor("SamImageProcessor"))), model

    def _load(self, checkpoint: Checkpoint, kind: Any) -> Any:
        return checkpoint.load(kind, local_files_only=self.local_files_only)

    def _load_model(self, checkpoint: Checkpoint, kind: Any) -> Any:
        model = checkpoint.load(kind, local_files_only=self.local_files_only, dtype=precision(self.device))
        return model.to(self.device).eval().requires_grad_(False)


def caption(words: str) -> str:
    """Words as Grounding DINO was trained on them: lower case, with a full stop.

    Raises:
        ConductorError: there is no word.
    """
    text = " ".join(words.lower().split()).rstrip(" .")
    if not re.search(r"\w", text):
        raise ConductorError(f"'{words}' holds no word to look for; expected words such as 'a dog'")
    return f"{text}."


def suppress(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> list[int]:
    """Non-maximum suppression: which of ``boxes`` ``(n, 4)`` stay, surest first; none overlaps a surer one by more."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        others = boxes[kept]
        corners = torch.minimum(others[:, 2:], boxes[index, 2:]) - torch.maximum(others[:, :2], boxes[index, :2])
        shared = corners.clamp(min=0).prod(1)
        if not (shared / (areas[kept] + areas[index] - shared) > overlap).any():
            kept.append(index)
    return kept


def checked_threshold(name: str, value: float) -> float:
    """``value``, if it is a threshold.

    Raises:
        ConductorError: it is not.
    """
    if not 0 <= value <= 1:
        raise ConductorError(f"the {name} threshold of grounding is {value}; expected 0 to 1")
    return value


def default_grounder(
    model: str | Path, device: str | torch.device | None = None, threshold: float | None = None
) -> Grounder:
    """The judge for "mini" or a model's folder that holds one, else Grounded-SAM.

    Args:
        model: whose pictures are looked at.
        device: of Grounded-SAM.
        threshold: least score of an object, 0..1; None for the grounder's own.
    """
    shipped = JUDGE_FILE if model == "mini" else Path(model) / JUDGE_FILE.name
    if shipped.is_file():
        return JudgeGrounder(Judge.load(shipped), threshold=threshold or 0.0)
    return GroundedSam(device) if threshold is None else GroundedSam(device, box_threshold=threshold)
