"""The command that names latents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import print_latents
from csr_hf.cli.report import Report

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation


def explain(called: Invocation) -> Report:
    """Name the latents of a run."""
    from csr_hf.explain.runs import explain_run
    from csr_hf.plumbing.provenance import provenance
    from csr_hf.runs.folder import RunFolder

    (options,) = called.options
    began = time.process_time()
    latents = explain_run(
        options.run,
        texts=options.texts,
        shares=options.share,
        other=options.other,
        device=called.device,
        trust_remote_code=called.trust_remote_code,
    )
    folder, live = RunFolder.of(options.run), latents.live
    data: dict[str, Any] = {
        **provenance(),
        "latents": folder.latents,
        "page": folder.latents_page,
        "head": latents.head,
        "texts": latents.texts,
        "live": len(live),
        "doubtful": sum(latent.is_doubtful for latent in live),
        "scores": list(latents.scores),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    if options.other is not None:
        data["found_again"] = latents.found_again
    shown = sorted(live, key=lambda latent: (-latent.fires, latent.number))[: options.show]
    return Report(data, lambda: print_latents(latents, shown), [f"look       {folder.latents_page}"])
