"""How a head is trained: presets, what each part of them does, speed."""

from __future__ import annotations

from regions.markdown import command, load_json, load_results, table

_PRESETS = ("csr", "csrv2", "csr_hf")
_VARIANTS = (
    "as it is",
    "without balance",
    "balance 8",
    "without distillation",
    "distillation 1",
    "cosine reconstruction 1 (removed)",
    "contrast with itself 0.1",
    "contrast of pairs 0.1",
    "contrast with neighbors 0.1 (removed)",
    "k annealed from 64",
    "dictionary started from the data",
    "batch 1,024, as many steps",
    "an untied decoder",
    "error over elements",
    "contrast of pairs 0.1, no distillation",
    "contrast of pairs 0.1, started from the data",
    "contrast of pairs 0.3",
    "contrast of pairs 0.1, no distillation, started from the data",
)
"""What the variants of the sweep are called, in the order of its file."""


def presets_table() -> str:
    """Compare presets at every k, as shares of the dense nDCG@10."""
    results = load_results("results/presets")
    lines = []
    for k in (4, 8, 16, 32, 64):
        kept = []
        for preset in _PRESETS:
            for method in ("CSR", "CSR, decoded"):
                (row,) = (
                    row
                    for row in results.select(k=k, metric="nDCG@10")
                    if row.method.startswith(f"{method}, hidden_dim") and row.method.endswith(f"preset {preset}")
                )
                kept.append(f"{row.retention:.3f}")
        lines.append([str(k), *kept])
    header = ["k", *(name for preset in _PRESETS for name in (preset, f"{preset}, decoded"))]
    return table(header, lines, left=0)


def variants_table() -> str:
    """Show what one change at a time to the preset does."""
    results = load_results("results/variants")
    lines = []
    for run, name in zip(results.details["runs"], _VARIANTS, strict=True):
        varied = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in run.items() if "." in key)
        rows = [row for row in results.rows if row.method.endswith(f"steps, {varied}") and row.metric == "nDCG@10"]
        kept = {row.method.partition(", hidden_dim")[0]: f"{row.retention:.3f}" for row in rows}
        figures = [f"{run['explained_variance']:.3f}", f"{run['postings_per_document']:.2f}"]
        lines.append([name, kept["CSR"], kept["CSR, decoded"], *figures, f"{run['dead_fraction']:.1%}"])
    return table(["variant", "CSR", "CSR, decoded", "explained variance", "postings", "dead"], lines)


def speed_table() -> str:
    """Compare the speed of training."""
    found = load_json("results/bench_train.json")
    lines = []
    for timing in found["timings"]:
        name = timing["name"]
        times = found["times_faster"].get(name)
        cells = [f"{found['rates'][name]:,.0f}", "" if times is None else f"{times:.1f}", f"{timing['peak_mb']:.0f}"]
        lines.append([name, *cells])
    return table(["trainer", "examples a second", "csr_hf is faster by", "peak memory, MB"], lines)


def speed_sizes() -> str:
    """Name the sizes and the machine of the benchmark of training."""
    found = load_json("results/bench_train.json")
    return f"{found['title'].removeprefix('training ')}, {found['details']['machine']}"


def presets_command() -> str:
    """Show the command that compared the presets."""
    return command(load_results("results/presets").details["command"])


REGIONS = {
    "presets": presets_table,
    "presets-command": presets_command,
    "variants": variants_table,
    "training-speed": speed_table,
    "training-speed-sizes": speed_sizes,
}
