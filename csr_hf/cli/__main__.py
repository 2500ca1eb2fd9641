"""`python -m csr_hf.cli` is `csr-hf`."""

import sys

from csr_hf.cli.main import main

sys.exit(main())
