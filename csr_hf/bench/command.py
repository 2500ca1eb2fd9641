"""What `csr-hf bench` does once its arguments are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def train(options: argparse.Namespace, console: Console, say: Callable[[str], None]) -> None:
    """Measure the speed of training."""
    from csr_hf.bench.training import TrainingSizes, bench_training
    from csr_hf.plumbing.atomic import check_writable

    if options.output is not None:
        check_writable(options.output.parent)
    sizes = TrainingSizes(
        input_dim=options.input_dim,
        hidden_dim=options.hidden_dim,
        k=options.k,
        batch_size=options.batch_size,
        steps=options.steps,
    )
    contest = bench_training(
        sizes, repeats=options.repeats, progress=not options.no_progress, command=options.command_line
    )
    console.print(contest.to_table())
    say(f"machine: {contest.details['machine']}, {contest.details['threads']} threads")
    if options.output is not None:
        contest.save(options.output)
        say(f"written: {options.output}")


def search(options: argparse.Namespace, console: Console, say: Callable[[str], None]) -> None:
    """Measure the speed of searches."""
    from csr_hf.bench.search import SearchSizes, bench_search
    from csr_hf.plumbing.threads import available_threads

    sizes = SearchSizes(
        documents=options.documents,
        queries=options.queries,
        k=options.k,
        query_k_factors=tuple(options.query_k_factor),
        candidates=tuple(options.candidates),
        sweep=dict(options.sweep),
        jitter=options.jitter,
        seed=options.seed,
        repeats=options.repeats,
        single=options.single,
        threads=options.threads or available_threads(),
        budget=options.budget,
    )
    contest = bench_search(
        options.head,
        sizes,
        output_dir=options.output,
        source=options.source,
        limit=options.limit,
        contestants=options.contestants,
        other_heads=options.other_head,
        task=options.task,
        device=options.device,
        progress=not options.no_progress,
        say=say,
        command=options.command_line,
    )
    for table in contest.to_tables():
        console.print(table)
    say(f"machine: {contest.details['machine']}; {sizes.threads} threads, {sizes.repeats} turns after one to warm up")
    say(f"written: {options.output}/search.json")
