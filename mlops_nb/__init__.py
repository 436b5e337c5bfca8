"""The notebook-first MLOps environment: tracked experiments, lineage, explanations and hardware use, offline by default.

    from mlops_nb import start_run
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {"start_run": "mlops_nb.store.session", "Run": "mlops_nb.store.session", "load_model": "mlops_nb.training.models",
            "open_store": "mlops_nb.store.door", "open_workspace": "mlops_nb.settings", "MlopsError": "mlops_nb.settings"}

__all__ = list(_EXPORTS)


def __getattr__(name):  # imported on first use: `import mlops_nb` stays light
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__():
    return sorted([*globals(), *_EXPORTS])
