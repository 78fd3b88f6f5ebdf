"""Diagnose: one image through both stages. A classifier says what it is, and where it says a lesion, a mask says where.

The classifier is a stored run, asked again (see `refit`). Beside its probabilities stands the set of classes that
holds the true one with a chosen confidence, from the validation part. Everything is in pixels of the image as it came.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from busistore import models, overlay, pixels, sheet, stats
from busistore.errors import BadInput, BusistoreError, UnknownName
from busistore.jobs import seen
from busistore.jobs.asked import ask
from busistore.jobs.certainty import Certainty, certainty_of
from busistore.jobs.encode import current_vectors
from busistore.jobs.refit import Classifier, classifier
from busistore.jobs.segment import mask_of
from busistore.lesion_shape import Shape, lesion_shapes
from busistore.preprocess import recipes
from busistore.preprocess.colour import luma
from busistore.schema import IMAGES, embeddings_name
from busistore.store import Store, quote

if TYPE_CHECKING:
    from PIL.Image import Image

NOTICE = "Research software, not a medical device: no decision about a patient may rest on this."
LESIONS = ("benign", "malignant")  # the classes that have a mask
OF_RUN = (
    "run_id", "method", "model", "model_id", "recipe", "shots", "ratio", "seed", "protocol", "dataset", "split_id",
)  # fmt: skip
OF_SEGMENTER = ("segmenter_id", "segmenter", "init", "split_id")


class Picture(NamedTuple):
    """An image as it came, (H, W) or (H, W, 3) uint8, with its name, the hash of its pixels, and the ids of all stored
    images that have the same pixels."""

    image: np.ndarray
    name: str
    sha256: str
    ids: list[str]
    is_stored: bool = False  # and not a file

    @property
    def grey(self) -> np.ndarray:
        """(H, W) uint8."""
        return luma(self.image)


@dataclass(frozen=True)
class Diagnosis:
    """What both stages say of an image. `mask` is (H, W) bool, None where the class has none; `lesions` are its parts,
    the largest first. `parts` are those of the classifier's and of the segmenter's split that the image is in."""

    picture: Picture
    probabilities: dict[str, float]
    certainty: Certainty
    run: dict[str, Any]
    segmenter: dict[str, Any]
    prompt: str
    proposer: str
    mask: np.ndarray | None
    parts: dict[str, str | None]
    notes: list[str] = field(default_factory=list)

    @property
    def predicted(self) -> str:
        """The most probable class, the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def lesions(self) -> list[Shape]:
        return [] if self.mask is None else lesion_shapes(self.mask)

    def record(self) -> dict[str, Any]:
        """All of it but the pixels, as JSON types."""
        height, width = self.picture.grey.shape
        row = {name: self.segmenter.get(name) for name in OF_SEGMENTER}
        return {
            "notice": NOTICE,
            "image": {"name": self.picture.name, "stored_as": self.picture.ids, "width_px": width, "height_px": height,
                      "pixels_sha256": self.picture.sha256},
            "class": self.predicted, "probabilities": self.probabilities,
            "prediction_set": {"method": "split conformal (LAC)", **asdict(self.certainty)},
            "classifier": {**{name: self.run[name] for name in OF_RUN}, "image_part": self.parts["classifier"]},
            "segmenter": {**row, "prompt": self.prompt, "proposer": self.proposer, "is_asked": self.mask is not None,
                          "image_part": self.parts["segmenter"]},
            "mask_area_px": None if self.mask is None else int(np.count_nonzero(self.mask)),
            "lesions": [shape._asdict() | {"bbox_px": list(shape.bbox_px)} for shape in self.lesions],
            "notes": self.notes,
        }  # fmt: skip


def diagnose(
    store: Store,
    image: str,
    *,
    segmenter: str,
    model: str | None = None,
    method: str | None = None,
    run: str | None = None,
    prompt: str | None = None,
    proposed_by: str | None = None,
    confidence: float = 0.9,
    weights: Path | None = None,
    segmenter_weights: Path | None = None,
) -> Diagnosis:
    """What a stored classifier and a segmenter say of one image. No prediction of it is stored.

    Args:
        image: the id of a stored image, or a picture file.
        segmenter: id of a segmenter, or its kind: then the newest that was trained on the split of the classifier, or
            the published one, as `segment` takes it.
        model, method, run: which classifier; see `refit.classifier`.
        prompt: none that is taken from a true mask; "auto" by default.
        proposed_by: of the prompt, where the segmenter needs one; as given to `segment`.
        confidence: of the prediction set, above 0 and below 1.
        weights, segmenter_weights: of the model as given to `encode`, of the segmenter as given to `segment`.

    Raises:
        BadInput: no picture.
        BusistoreError: no classifier or no segmenter of that kind.
        MissingWeights: the image is not encoded, and the model is not at hand.
    """
    stats.check_confidence(confidence)
    picture = picture_of(store, image)
    asked = classifier(store, model, method, run, weights)
    drawn_by = ask(store, segmenter, prompt=_blind(prompt), proposed_by=proposed_by, split=asked.split.split_id,
                   weights=segmenter_weights)  # fmt: skip
    vector = _vector(store, asked, picture)
    probabilities, of_val = asked.answer(vector)
    told = dict(zip(asked.split.classes, map(float, probabilities), strict=True))
    certainty = certainty_of(store, asked, probabilities, of_val, confidence)
    is_lesion = max(told, key=told.__getitem__) in LESIONS
    mask = mask_of(drawn_by.hold(store), picture.grey) if is_lesion else None
    learns = drawn_by.row["n_train"] or drawn_by.chosen
    parts = {"classifier": seen.part_of(asked, picture.ids),
             "segmenter": seen.part_of(drawn_by, picture.ids) if learns else None}  # fmt: skip
    proposer = drawn_by.proposer_id if is_lesion else ""
    made = Diagnosis(picture, told, certainty, asked.run, drawn_by.row, drawn_by.prompt, proposer, mask, parts)
    is_placed = bool(set(picture.ids) & asked.split.group_of.keys())
    about = picture.name, picture.ids, [] if is_placed else seen.near(store, asked, picture, vector)
    made.notes.extend([*seen.of_class(asked, *about), *_remarks(made)])
    if is_lesion:
        made.notes.extend([*seen.of_mask(drawn_by, *about), *drawn_by.warnings(store)])
    return made


def save(made: Diagnosis, folder: Path) -> tuple[Path, Path]:
    """Write NAME-diagnosis.png and NAME-diagnosis.json into a folder, which is made where there is none; their paths.

    Raises:
        BadInput: they cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "-", made.picture.name if made.picture.is_stored else Path(made.picture.name).stem)
    picture, record = (folder / f"{name.strip('-.')}-diagnosis{suffix}" for suffix in (".png", ".json"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(made.record(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"'{folder}' cannot be written ({error.strerror or error})") from None
    sheet.save(drawn(made), picture)
    return picture, record


def drawn(made: Diagnosis) -> Image:
    """The picture with the outline of the mask, and the answer below it."""
    certain, said = made.certainty, made.probabilities
    title = f"{made.predicted}: {said[made.predicted]:.2f}"
    lines = [", ".join(f"{name} {p:.2f}" for name, p in said.items()), certain.in_words()]
    lines += [f"{k}: {in_words(shape)}" for k, shape in enumerate(made.lesions, start=1)] or ["no lesion is marked"]
    who = f"{made.picture.name}; {made.run['run_id']}, {made.segmenter['segmenter_id']}"
    corners = [shape.bbox_px[:2] for shape in made.lesions] if len(made.lesions) > 1 else []
    return overlay.draw(made.picture.grey, made.mask, title, lines, [who, *made.notes, NOTICE], corners)


def in_words(shape: Shape) -> str:
    """A lesion in one line."""
    x0, y0, x1, y1 = shape.bbox_px
    turned = "taller than wide" if shape.taller_than_wide else "not taller than wide"
    size = f"{shape.area_px} px, longest axis {shape.longest_axis_px:.0f} px, {turned}"
    return f"{size}, at x {x0} to {x1 - 1}, y {y0} to {y1 - 1}"


def picture_of(store: Store, image: str) -> Picture:
    """A stored image, or the picture in a file (PNG, JPEG, BMP or TIFF).

    Raises:
        BadInput: there is no such file, or it is no picture of 8 bits.
        UnknownName: neither an image nor a path.
    """
    stored = store.read(IMAGES.name, ["pixels_sha256"], f"image_id = {quote(image)}")["pixels_sha256"].to_pylist()
    if stored:
        ((_, data),) = store.files(IMAGES).stream([image])
        others = [i for i in _same(store, stored[0]) if i != image]
        return Picture(np.asarray(pixels.open_image(data, image)), image, stored[0], [image, *others], True)
    path = Path(image).expanduser()
    if not _is_file(path):
        if path.suffix or path.is_absolute():
            raise BadInput(f"there is no file '{image}'; name a picture, or an image of the store")
        raise UnknownName("image or file", image, store.read(IMAGES.name, ["image_id"])["image_id"].to_pylist())
    opened = pixels.open_any(pixels.read_bytes(path), path.name)
    sha256 = pixels.pixels_sha256(opened)
    return Picture(np.asarray(opened), path.name, sha256, _same(store, sha256))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file
        return False


def _same(store: Store, sha256: str) -> list[str]:
    where = f"pixels_sha256 = {quote(sha256)}"
    return sorted(store.read(IMAGES.name, ["image_id"], where)["image_id"].to_pylist())


def _blind(prompt: str | None) -> str:
    if prompt is not None and prompt.startswith("oracle"):
        raise BusistoreError(f"'{prompt}' is taken from a true mask, which an image to diagnose has not; use 'auto'")
    return prompt or "auto"


def _vector(store: Store, asked: Classifier, picture: Picture) -> np.ndarray:
    """(D,) float32: the stored one where the same pixels are encoded, else made now."""
    recipe = recipes.recipe(asked.run["recipe"])
    sound = current_vectors(store, asked.located.model_id, recipe.recipe_id)
    known = [i for i in picture.ids if i in sound]
    if known:
        return store.vectors(embeddings_name(asked.located.model_id, recipe.recipe_id), known[:1])[0]
    return models.load(asked.located).encode(recipes.apply(recipe, picture.image).pixels[None])[0]


def _remarks(made: Diagnosis) -> list[str]:
    """What must be read with the answer."""
    certain, notes = made.certainty, []
    if certain.threshold is None:
        n = f"{certain.n_val} validation images are too few for a confidence of {certain.confidence:g}"
        notes.append(f"{n}: the prediction set holds every class")
    elif certain.val_was_tuned_on:
        notes.append("the validation images chose the classifier's parameters too, so the confidence is optimistic")
    if made.mask is None and set(certain.classes) & set(LESIONS):
        notes.append("no mask was made, as the most probable class has none; the prediction set holds one that has")
    if made.mask is not None and not made.lesions:
        notes.append(f"the class is {made.predicted}, and the segmenter marks no lesion")
    return notes
