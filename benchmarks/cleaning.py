"""Overlay removal against drawn truth and on real images: nothing, the usual way, and ours, in one run.

    python benchmarks/cleaning.py ../shared/busi --n 100 --ocr --trace    # some minutes, one thread
    python benchmarks/cleaning.py ../shared/busi --part tune --n 20 --real 0    # while working on a detector

`--part tune` is for choosing thresholds, `--part score` for numbers to report: no image of one shows the frame of an
image of the other, and their seeds differ. Sensitivity and specificity are of all real images, masked area of the
overlay-free images of the part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cleaning_measures as measure
import cv2
import numpy as np
from cleaning_tables import print_kinds, print_layers, print_measures, print_real
from PIL import Image
from scanner_ink import OVERLAY_FLAGS, PARTS, Case, bases, cases, image_path, part_of, truth
from usual_cleaner import Answer, usual

from busistore import pixels

Side = Callable[[np.ndarray], Answer]
AGAIN = 20
"""Cases that are cleaned twice."""


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of an (H, W) or (H, W, 3) image, as the preprocessing has it."""
    return image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))


def nothing(image: np.ndarray) -> Answer:
    return Answer(luma(image), np.zeros(image.shape[:2], bool))


def ours(ocr: bool) -> Side | None:
    """The library's cleaner; its detector alone, nothing filled, where there is only that; else None."""
    if not find_spec("busistore.preprocess.cleaning"):
        return detector_alone(ocr)
    from busistore.preprocess.artefacts import Settings
    from busistore.preprocess.cleaning import clean

    def side(image: np.ndarray) -> Answer:
        made = clean(image, Settings(), ocr)
        return answer(made.pixels, made.artefacts)

    return side


def detector_alone(ocr: bool) -> Side | None:
    if not find_spec("busistore.preprocess.artefacts"):
        return None
    from busistore.preprocess.artefacts import Settings, detect

    return lambda image: answer(luma(image), detect(image, Settings(), ocr))


def answer(made: np.ndarray, artefacts) -> Answer:
    from busistore.preprocess.cleaning import is_fillable

    marks = [f.centre for f in artefacts.findings if f.kind.startswith("caliper") and f.centre]
    has_text = any(f.kind == "text" for f in artefacts.findings)
    filled = artefacts.mask if is_fillable(artefacts) else np.zeros_like(artefacts.mask)
    return Answer(made, filled, np.array(marks, float).reshape(-1, 2), has_text, artefacts.flags)


def sides(ocr: bool) -> dict[str, Side]:
    found = {"nothing": nothing, "usual": lambda image: usual(image, luma(image)), "ours": ours(False)}
    if ocr:
        found["ours + OCR"] = ours(True)
    for name in [n for n, side in found.items() if side is None]:
        print(f"{name}: skipped, busistore.preprocess has no cleaning and no artefacts yet")
    return {name: side for name, side in found.items() if side}


def timed(side: Side, image: np.ndarray) -> tuple[Answer, float]:
    """The answer and the CPU seconds of this process."""
    started = time.process_time()
    return side(image), time.process_time() - started


def measures(case: Case, got: Answer, cpu_s: float) -> dict:
    """Everything that one case says about one side. With a Doppler box only the flag counts: it must not be filled."""
    if "doppler" in case.tags:
        return {"cpu_s": cpu_s, "doppler": "doppler" in got.flags and np.array_equal(got.pixels, luma(case.drawn))}
    true = np.array([(m.x, m.y) for m in case.marks]).reshape(-1, 2)
    seen = {within: measure.match(true, got.marks, within) for within in (7, 4)}
    before = luma(case.drawn)
    if case.holds_sign:
        free = measure.corner(case.mask.shape) & ~measure.widened(case.mask)
        got = replace(got, mask=got.mask & ~free, pixels=np.where(free, before, got.pixels))
    row = {"n_true": len(true), "n_found": len(got.marks), "hits": seen, "cpu_s": cpu_s}
    wide, errors = measure.widened(case.mask), (got.pixels, case.clean)
    return row | {
        "mask_recall": measure.mask_recall(got.mask, case.mask), "iou": measure.iou(got.mask, case.mask),
        "far": measure.far_share(got.mask, case.mask), "psnr": measure.psnr(*errors, wide),
        "ssim": measure.ssim(*errors, wide), "mae": measure.mae(*errors, wide),
        "residue": measure.residue(*errors, case.mask), "line_residue": measure.residue(*errors, inked(case, 2)),
        "outside": measure.changed_outside(got.pixels, before, case.mask),
        "flagged": bool(got.flags & {"too-much"}),
        "layers": [
            (measure.mask_recall(got.mask, inked(case, k)), measure.residue(*errors, inked(case, k)))
            for k in range(1, 6)
        ],
        "kinds": [(k, *of_mark(case, got, k)) for k in range(len(true))],
    }  # fmt: skip


def inked(case: Case, *layers: int) -> np.ndarray:
    """(H, W) bool: the changed pixels of some layers."""
    return np.isin(case.layer, layers)


def of_mark(case: Case, got: Answer, k: int) -> tuple[frozenset[str], float]:
    """What is special about a mark (its kind, its tags, those of the case) and the residue of its ink."""
    mark = case.marks[k]
    y, x = np.indices(case.mask.shape, sparse=True)
    near = np.maximum(np.abs(x - mark.x), np.abs(y - mark.y)) <= mark.half + 2
    return case.tags | mark.tags | {mark.kind}, measure.residue(got.pixels, case.clean, inked(case, 1) & near)


def drawn(side: Side, made: list[Case]) -> list[dict]:
    """One row of measures per case; the first cases are also cleaned a second time."""
    rows = []
    for k, case in enumerate(made):
        got, cpu_s = timed(side, case.drawn)
        rows.append(measures(case, got, cpu_s))
        if k < AGAIN and "doppler" not in got.flags:  # flow is left as it is, so that there is no cleaned image
            rows[-1]["again"] = float((side(got.pixels).pixels != got.pixels).mean())
    return rows


def real(side: Side, folder: Path, chosen: list[dict[str, str]]) -> list[dict]:
    """What a side says about real images as they are stored."""
    rows = []
    for row in chosen:
        path = image_path(folder, row)
        image = np.asarray(pixels.open_image(path.read_bytes(), path.name))
        got, cpu_s = timed(side, image)
        rows.append({
            "name": row["image"], "part": part_of(row["leak_group"]), "caliper": row["has_caliper"] == "1",
            "text": row["text"] != "", "free": all(row[f] == clear for f, clear in OVERLAY_FLAGS.items()),
            "n_marks": len(got.marks), "has_text": got.has_text, "masked": measure.masked_share(got.mask),
            "masked_all": measure.masked_share(got.mask, with_corner=True), "cpu_s": cpu_s,
            "unchanged": np.array_equal(got.pixels, luma(image)),
        })  # fmt: skip
    return rows


def fillers(made: list[Case]) -> dict[str, tuple[float, float, float]]:
    """PSNR and SSIM inside T2 of each filler, given the true mask 1 px wider, and its CPU seconds an image."""
    from busistore.preprocess.filling import FILLERS, fill

    made, found = [case for case in made if "doppler" not in case.tags], {}
    for name in FILLERS:
        started = time.process_time()
        filled = [fill(luma(c.drawn), cv2.dilate(c.mask.view(np.uint8), np.ones((3, 3))) > 0, name) for c in made]
        cpu_s = (time.process_time() - started) / len(made)
        scores = [(how(f, c.clean, measure.widened(c.mask)) for how in (measure.psnr, measure.ssim))
                  for f, c in zip(filled, made)]  # fmt: skip
        psnr, ssim = (measure.mean(list(values)) for values in zip(*scores))
        found[name] = psnr, ssim, cpu_s
    return found


def trace(side: Side, made: list[Case]) -> tuple[float, float]:
    """How well a linear probe tells drawn-and-cleaned images from the same images that never had ink, and the mean
    cosine of the two.

    AUROC on groups left out of the fit, mean of five folds; both images of a pair go through the side and lie in the
    same fold. The cosine is of what the side made and of the clean image as it is. The vectors are a frozen
    EfficientNet-Lite0's.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = [case for case in made if "doppler" not in case.tags]
    vectors = encoded([side(image).pixels for case in made for image in (case.clean, case.drawn)])
    label, groups = np.tile([0, 1], len(made)), np.repeat([case.base.group for case in made], 2)
    found = []
    for fit, test in GroupKFold(5, shuffle=True, random_state=0).split(vectors, label, groups):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(vectors[fit], label[fit])
        found.append(roc_auc_score(label[test], probe.decision_function(vectors[test])))
    clean = encoded([case.clean for case in made])
    unit, of_clean = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors[1::2], clean))
    return float(np.mean(found)), float((unit * of_clean).sum(axis=1).mean())


def encoded(images: list[np.ndarray], batch: int = 16) -> np.ndarray:
    """(N, D) vectors of images that are padded to the encoder's square."""
    from busistore import models
    from busistore.preprocess.recipes import apply, recipe

    encoder, pad = models.load(models.locate("efficientnet-lite0")), recipe("pad224")
    squares = np.stack([apply(pad, image).pixels for image in images])
    return np.concatenate([encoder.encode(squares[k : k + batch]) for k in range(0, len(squares), batch)])


def write_sheets(side: Side, folder: Path, out: Path, per_sheet: int = 8) -> None:
    """Real caliper images above, cleaned below, to be looked at."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [row for row in truth(folder) if row["has_caliper"] == "1"]
    for start in range(0, len(chosen), per_sheet):
        sheet = Image.new("L", (per_sheet // 2 * 480, 2 * 800))
        for k, row in enumerate(chosen[start : start + per_sheet]):
            path = image_path(folder, row)
            image = np.asarray(pixels.open_image(path.read_bytes(), path.name))
            pair = np.concatenate([luma(image), side(image).pixels])
            row_of, column = divmod(k, per_sheet // 2)
            sheet.paste(Image.fromarray(cv2.resize(pair, (480, 800))), (column * 480, row_of * 800))
        sheet.save(out / f"{start:03}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busi", type=Path)
    parser.add_argument("--n", type=int, default=100, help="drawn cases")
    parser.add_argument("--part", choices=list(PARTS), default="score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=None, help="real images, all by default")
    parser.add_argument("--extras", action="store_true", help="also scales, focus marks, body marks, colour frames")
    parser.add_argument("--ocr", action="store_true")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--sheets", type=Path, help="folder for real caliper images before and after ours")
    given = parser.parse_args()
    compared = sides(given.ocr)
    made = cases(bases(given.busi, given.part)[: given.n], given.part, given.n, given.seed, given.extras)
    rows = {name: drawn(side, made) for name, side in compared.items()}
    chosen = truth(given.busi)[:: 1 if given.real is None else max(1, 390 // max(1, given.real))]
    seen = {name: real(side, given.busi, chosen if given.real != 0 else []) for name, side in compared.items()}
    traces = {name: trace(side, made) for name, side in compared.items()} if given.trace else {}
    print(f"{len(made)} drawn cases ({given.part}, seed {given.seed}), {sum(len(c.marks) for c in made)} marks")
    print("usual: bright components by size, aspect and fill, then Telea; published ones add templates and traces\n")
    print_measures(rows, seen, traces, given.part)
    print_layers(rows)
    print_kinds(rows)
    print_real(seen)
    print("\n| filler, on the true mask | PSNR dB | SSIM | CPU s |\n|---|---|---|---|")
    for name, (psnr, ssim, cpu_s) in fillers(made).items():
        print(f"| {name} | {psnr:.1f} | {ssim:.3f} | {cpu_s:.3f} |")
    if given.sheets and "ours" in compared:
        write_sheets(compared["ours"], given.busi, given.sheets)


if __name__ == "__main__":
    main()
