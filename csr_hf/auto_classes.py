"""Register CSRConfig and CSRModel with transformers' Auto classes, without importing transformers.

`import csr_hf` takes milliseconds, importing `transformers.AutoModel` seconds. Therefore the classes are registered at
once if transformers' Auto modules are loaded already, and otherwise right after they are first imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    from csr_hf.configuration_csr import OLD_MODEL_TYPE, CSRConfig

    AutoConfig.register(CSRConfig.model_type, CSRConfig, exist_ok=True)
    # Heads that were saved under the old name; a model of transformers with this name would take precedence.
    if OLD_MODEL_TYPE not in CONFIG_MAPPING:
        CONFIG_MAPPING.register(OLD_MODEL_TYPE, CSRConfig)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModel

    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.modeling_csr import CSRModel

    AutoModel.register(CSRConfig, CSRModel, exist_ok=True)


_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Import hook that runs a registration right after its module is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        registration = _REGISTRATIONS.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if registration else None
        if spec is None or spec.loader is None or registration is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            registration()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the classes whose Auto modules are loaded, and the others as soon as they are imported."""
    for name, registration in _REGISTRATIONS.items():
        if name in sys.modules:
            registration()
    if not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())
