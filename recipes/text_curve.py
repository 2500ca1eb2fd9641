"""Draw what a model fine-tuned by Matryoshka losses keeps against minutes of training, and CSR beside it (Fig. 1c).

    python recipes/text_curve.py recipes/paper/results/text/curve.png

From the results files that the table of recipes/paper.md is written from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from regions.paper_text import PACKED, TRUNCATION, Measured, list_frozen, list_trained

from csr_hf.evaluation.plots import make_figure, save_figure

BUDGETS = (24, 64, 128)
"""Bytes of a document, a panel each."""


def list_lines(
    frozen: Sequence[Measured], trained: Sequence[Measured], budget: int
) -> dict[str, list[tuple[float, float]]]:
    """List what is drawn within a budget: points of minutes and what is kept on all tasks.

    Fine-tuned models are a line for each learning rate, which begins at the frozen model; a head is a point of its
    own.

    Args:
        frozen: what can be had of the frozen model, its truncation first.
        trained: fine-tuned models, and heads on them. Those that were not measured on all tasks are left out.
        budget: bytes of a document.
    """
    tasks = frozen[0].tasks
    whole = [each for each in trained if set(tasks) <= set(each.tasks)]
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in (*whole, *frozen):
        share = each.share(tasks, budget)
        if each.method not in (TRUNCATION, PACKED) or each is frozen[0] or share is None or each.minutes is None:
            continue
        if each.method == TRUNCATION and each.model not in lines:
            lines[each.model] = [(0.0, frozen[0].share(tasks, budget) or 0.0)]
        lines.setdefault(each.model, []).append((each.minutes, share))
    return lines


def draw_curve(frozen: Sequence[Measured], trained: Sequence[Measured], path: Path) -> None:
    """Draw a panel for each budget; arguments as for `list_lines`, and the PNG to write."""
    figure = make_figure(11, 4.2)
    panels = figure.subplots(1, len(BUDGETS), sharey=True)
    for axes, budget in zip(panels, BUDGETS, strict=True):
        for name, points in list_lines(frozen, trained, budget).items():
            style = {"marker": "o"} if name.endswith("truncated") else {"marker": "*", "markersize": 13, "ls": ""}
            axes.plot(*zip(*points, strict=True), label=name, **style)
        axes.axhline(1.0, color="black", linewidth=1, linestyle="--", label="frozen MiniLM, all 1,536 bytes")
        axes.set_title(f"{budget} bytes")
        axes.set_xlabel("minutes of one core")
    panels[0].set_ylabel(f"share of the score, mean of {len(frozen[0].tasks)} tasks")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PNG to write")
    draw_curve(list_frozen(), list_trained(), parser.parse_args().output)


if __name__ == "__main__":
    main()
