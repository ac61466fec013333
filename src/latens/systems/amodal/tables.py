"""Tables 1 to 3 of 000 beside the paper's own numbers, and the state of the codebook, which it has no table of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from latens.inference.page import Block, Table
from latens.inference.reproduction import spread
from latens.systems.amodal.codebook import code_quality, held_out_crops
from latens.systems.amodal.experiments import Laboratory, Result
from latens.systems.amodal.published import EMBRYOS, KINS, TABLE_1, TABLE_2, TABLE_3, Row

MEASURES: Mapping[str, str] = {
    "AP": "AP",
    "AP50": "AP50",
    "AP, mostly hidden": "AP hidden",
    "AP of visible parts": "AP visible",
    "mean IoU": "IoU",
    "mean IoU of hidden parts": "IoU hidden",
    "order accuracy": "order",
    "count accuracy": "count",
}
"""Keys of a report, and the columns they become, in percent."""
COMPARED = ("AP", "AP, mostly hidden", "AP of visible parts", "mean IoU of hidden parts")
WANTED_USED, WANTED_IOU = 0.9, 0.99
LEGEND = (
    "In percent but the last two; mean ± deviation over seeds. AP: 0.50:0.95 of whole masks; hidden: of objects hidden by more "
    "than 25 %; IoU: mean over true objects, of whole masks and of hidden parts; order: of overlapping pairs; count: pictures "
    "with the right number; parameters in millions; minutes of training, without the mask code, which is trained once for all."
)


def table1(lab: Laboratory) -> list[Block]:
    """Table 1: the head of Mask R-CNN, as it is and with as many parameters, against the shape code."""
    return comparison(lab, TABLE_1, EMBRYOS, [("vq", "fcn-plain"), ("vq", "fcn-wide"), ("vq", "fcn")])


def table2(lab: Laboratory) -> list[Block]:
    """Table 2: the same on Mask R-CNN and on Mask R-CNN with ASN."""
    return comparison(lab, TABLE_2, KINS, [("vq", "fcn"), ("asn-vq", "asn-fcn"), ("asn-fcn", "fcn"), ("asn-vq", "vq")])


def table3(lab: Laboratory) -> list[Block]:
    """Table 3: refinement and occlusion map, added one by one."""
    return comparison(lab, TABLE_3, KINS, [("vq-refined", "vq-alone"), ("vq", "vq-refined"), ("vq", "vq-alone")])


def comparison(lab: Laboratory, rows: Sequence[Row], printed_on: str, pairs: Sequence[tuple[str, str]]) -> list[Block]:
    """Rows of a table with the paper's numbers, and differences of pairs (this one, against that one), seed by seed."""
    results = lab.results([row.variant for row in rows])
    of = {row.variant: [result for result in results if result.variant == row.variant] for row in rows}
    columns = ["model", "seeds", *MEASURES.values(), "parameters", "minutes", f"paper mAP ({printed_on})"]
    table = Table(columns, [[*measured(row, of[row.variant]), paper(row.printed)] for row in rows], LEGEND)
    by_variant = {row.variant: row for row in rows}
    differences = [difference(by_variant[one], by_variant[other], of[one], of[other]) for one, other in pairs]
    columns = ["difference", "seeds", *(MEASURES[name] for name in COMPARED), f"paper mAP ({printed_on})"]
    return [table, Table(columns, differences, "In points, paired by seed: the same data in the same order.")]


def measured(row: Row, results: Sequence[Result]) -> list[str]:
    """The cells of a row but for the paper's."""
    cells = [spread(percents(results, name)) for name in MEASURES]
    size = f"{results[0].parameters / 1e6:.2f}" if results else "-"
    return [row.name, str(len(results)), *cells, size, spread([result.seconds / 60 for result in results], ".1f")]


def difference(one: Row, other: Row, ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    """The cells of a difference; a seed counts where both rows have it."""
    against = {result.seed: result for result in theirs}
    both = [(result, against[result.seed]) for result in ours if result.seed in against]
    cells = []
    for name in COMPARED:
        gains = [100 * (a.numbers[name] - b.numbers[name]) for a, b in both]
        cells.append(spread([gain for gain in gains if not math.isnan(gain)], "+.2f"))
    return [f"{one.name} - {other.name}", str(len(both)), *cells, paper(one.printed - other.printed, "+.1f")]


def paper(value: float, form: str = ".1f") -> str:
    """A number of the paper, or a dash where it has none."""
    return "-" if math.isnan(value) else f"{value:{form}}"


def percents(results: Sequence[Result], name: str) -> list[float]:
    """One number of several runs; runs whose test pictures have nothing to count are left out."""
    return [100 * result.numbers[name] for result in results if not math.isnan(result.numbers[name])]


def codebook(lab: Laboratory) -> list[Block]:
    """The mask code from several seeds: codewords in use, perplexity, reconstruction of held-out shapes."""
    crops = held_out_crops(lab.test, lab.base.model.code.size)
    found = []
    for seed in range(lab.scale.code_seeds):
        code = lab.model(lab.code(seed).parent).model.code
        assert code is not None
        found.append(code_quality(code, crops))
        lab.tell(f"mask code, seed {seed}: {100 * found[-1].used:.1f} % used, IoU {found[-1].iou:.4f}")
    rows = [
        [str(s), f"{100 * q.used:.1f}", f"{q.perplexity:.1f}", f"{q.iou:.4f}", f"{q.worst:.4f}"] for s, q in enumerate(found)
    ]
    rows.append([
        "mean", spread([100 * q.used for q in found], ".1f"), spread([q.perplexity for q in found], ".1f"),
        spread([q.iou for q in found], ".4f"), spread([q.worst for q in found], ".4f"),
    ])  # fmt: skip
    alive = sum(quality.used >= WANTED_USED and quality.iou >= WANTED_IOU for quality in found)
    caption = (
        f"{found[0].masks} held-out masks on {lab.base.model.code.size} x {lab.base.model.code.size}; "
        f"{lab.base.model.code.codewords} codewords on a grid of {lab.base.model.code.grid}. Wanted: {100 * WANTED_USED:.0f} % "
        f"used and IoU {WANTED_IOU}, met by {alive} of {len(found)} seeds (mean IoU {mean(q.iou for q in found):.4f})."
    )
    return [Table(["seed", "used %", "perplexity", "IoU", "IoU of the worst 1 %"], rows, caption)]


TABLES: Mapping[str, Callable[[Laboratory], list[Block]]] = {
    "table1": table1, "table2": table2, "table3": table3, "codebook": codebook,
}  # fmt: skip
