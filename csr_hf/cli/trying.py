"""The page to try a run: here, and as a Space."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.cli.output import print_line
from csr_hf.cli.report import Report

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation

logger = logging.getLogger(__name__)


def demo(called: Invocation) -> Report:
    """Serve the page of a run until the user ends it."""
    from csr_hf.demo.app import open_page

    (options,) = called.options
    page = open_page(
        options.run,
        title=options.title,
        host=options.host,
        port=options.port,
        browser=not options.no_browser and _has_screen(),
        device=called.device,
        trust_remote_code=called.trust_remote_code,
    )
    logger.info("page       %s (Ctrl-C ends it)", page.url)
    try:
        page.wait()
    except KeyboardInterrupt:
        page.close()
    return Report({"run": options.run, "url": page.url})


def push_space(called: Invocation) -> Report:
    """Write the page of a run to a temporary folder, and publish that."""
    from csr_hf.demo.space import push_space as publish
    from csr_hf.demo.space import write_space

    (options,) = called.options
    for name, is_given in {
        "--create-pr": options.create_pr,
        "--revision": options.revision is not None,
        "--keep-card": options.keep_card,
        "--overwrite-card": options.overwrite_card,
    }.items():
        if is_given:
            raise ValueError(f"{name} is for the repository of a head. Leave it out with --space.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        notes = write_space(
            options.model,
            folder,
            layout=options.layout,
            base_model=options.base_model,
            license=options.license,
            device=called.device,
        )
        done = publish(folder, options.space, private=options.private)

    def show() -> None:
        for line in [*notes, f"pushed: {done.url}, commit {done.commit}"]:
            print_line(line)

    return Report({"space": done.repo_id, "url": done.url, "commit": done.commit, "notes": notes}, show)


def _has_screen() -> bool:
    """Tell whether a browser can be opened here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
