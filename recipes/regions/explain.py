"""What names of latents predict, whether latents are found again, and what steering does."""

from __future__ import annotations

from typing import Any

from regions.markdown import command, load_json, table

_HEADS = {
    "general": "all-MiniLM-L6-v2/results/general_k32/explain.json",
    "quickstart": "results/explain_quickstart.json",
    "emoji": "tiny-clip/results/emoji_cifar10_k64/explain.json",
}
_STEERING = "results/steering.json"
_CHOICE = "results/steering_choice.json"
_CHOSEN_COUNT = 128
_TIME = "results/steering_time.json"


def names_table() -> str:
    """Show for both heads and each share of the texts what names predict, beside the obvious names."""
    lines = []
    for head, path in _HEADS.items():
        rows = {(row["names"], row["share"], row["by"]): row for row in load_json(path)["scores"]}
        for share in sorted({share for _, share, _ in rows}):
            for names in dict.fromkeys(name for name, _, _ in rows):
                backbone, words = (rows[names, share, by] for by in ("backbone", "BM25"))
                lines.append(
                    [head, f"strongest {share:.0%}" if share < 1 else "all active", names,
                     f"{backbone['median']:.3f}", f"{backbone['at_least_0.8']:.1%}", f"{words['median']:.3f}"]
                )  # fmt: skip
    header = ["head", "texts with the latent", "names", "median AUC", "at least 0.80", "median AUC by BM25"]
    return table(header, lines, left=3)


def names_command() -> str:
    """Show how the general head was explained, and on what."""
    found = load_json(_HEADS["general"])
    return f"{command(found['command'])}\n\non {found['machine']}."


def names_counts() -> str:
    """Say how many texts the general head was explained by, and how many of its latents fire in them."""
    found = load_json(_HEADS["general"])
    return f"{found['texts']:,} texts, in which {found['live']:,} latents fire"


def naming_seconds() -> str:
    """Return the processor time that naming the general head's latents took, in seconds."""
    return f"{load_json(_HEADS['general'])['cpu_seconds']:.0f}"


def emoji_counts() -> str:
    """Say how many pictures named the latents of the head on emoji, how many of its latents fire and are measured."""
    found = load_json(_HEADS["emoji"])
    measured = f"{found['scores'][0]['latents']:,} of its {found['live']:,} live latents"
    return f"{found['texts']:,} emoji; the table is of {measured}"


def doubtful() -> str:
    """Say how many names of the general head say little."""
    found = load_json(_HEADS["general"])
    return f"{found['doubtful']} of {found['live']:,}"


def found_again() -> str:
    """Say which share of the latents another seed has too."""
    return f"{load_json(_HEADS['general'])['found_again']:.0%}"


def steering_table() -> str:
    """Show nDCG@10 of every way to answer, in the best of its settings on each data set."""
    rows = load_json(_STEERING)["rows"]
    sets = list(dict.fromkeys(row["data"] for row in rows))
    ways: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        way, _, setting = row["method"].rpartition(", ")
        is_setting = bool(way) and (setting == "closer" or setting.replace(".", "").isdigit())
        name = way if is_setting else row["method"]
        best = ways.setdefault(name, {}).get(row["data"])
        if best is None or row["ndcg"] > best["ndcg"]:
            ways[name][row["data"]] = row
    lines = []
    for name, best in ways.items():
        cells = []
        for data in sets:
            row = best[data]
            low, high = row["interval"]
            cells.append(f"{row['ndcg']:.3f} ± {(high - low) / 2:.3f}")
        lines.append([name, *cells])
    counts = {row["data"]: row["questions"] for row in rows}
    return table(["answered by", *(f"{data}, {counts[data]} questions" for data in sets)], lines)


def steering_choice() -> str:
    """Say what the chosen weights do on examples alone, beside those of before, and by which command."""
    found = load_json(_CHOICE)
    best, before = next(row for row in found["rows"] if row["count"] == _CHOSEN_COUNT), found["rows"][-1]
    means = [f"{each['mean']:.3f}" for each in (best, before)]
    return f"{means[0]} in place of {means[1]}, over {len(best['ndcg'])} data sets"


def steering_choice_command() -> str:
    """Show how the weights were chosen."""
    return command(load_json(_CHOICE)["command"])


def steering_gains() -> str:
    """Say how far the latents of examples, weighted by spread, are above the dense model with a filter."""
    rows = load_json(_STEERING)["rows"]
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = {row["method"]: row["ndcg"] for row in rows if row["data"] == data}
        rival = max(score for method, score in own.items() if method.startswith("dense, filter, "))
        parts.append(f"{own['latents of examples, weighted by spread'] - rival:+.3f} ({data})")
    return ", ".join(parts)


def steering_time() -> str:
    """Show how long a steered search takes beside a plain one."""
    found = load_json(_TIME)
    lines = [[row["search"], f"{row['ms']:.2f}", f"{row['times plain']:.2f}"] for row in found["rows"]]
    measured = f"{command(found['command'])}\n\non {found['machine']}, {found['documents']:,} documents."
    return f"{table(['search', 'ms of processor time', 'times a plain one'], lines)}\n\n{measured}"


def steering_command() -> str:
    """Show how it was measured."""
    found = load_json(_STEERING)
    return f"{command(found['command'])}\n\non {found['machine']}."


REGIONS = {
    "explain-names": names_table,
    "explain-command": names_command,
    "explain-counts": names_counts,
    "explain-doubtful": doubtful,
    "explain-seconds": naming_seconds,
    "explain-emoji": emoji_counts,
    "explain-found-again": found_again,
    "steering": steering_table,
    "steering-command": steering_command,
    "steering-gains": steering_gains,
    "steering-time": steering_time,
    "steering-choice": steering_choice,
    "steering-choice-command": steering_choice_command,
}
