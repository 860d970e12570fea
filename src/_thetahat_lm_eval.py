"""Tells lm-eval, once it has made its list of models, that `thetahat` is one.

lm-eval (0.4.13) looks for no plug-ins. So `thetahat_lm_eval.pth` has every Python that starts import this module, which
imports nothing and waits for `lm_eval.models` to be imported, as it is for anybody who never does.
"""

import sys


class Finder:
    """Lets others find `lm_eval.models`, and adds a name to its list when it has been run."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None):  # noqa: ANN205 - its type is an import
        """Of any other module: nothing."""
        if name != "lm_eval.models":
            return None
        sys.meta_path.remove(Finder)
        from importlib import import_module
        from importlib.util import find_spec
        from types import ModuleType

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_add(module: ModuleType) -> None:
                run(module)
                registry = import_module("lm_eval.api.registry").model_registry
                registry.register("thetahat", target="thetahat.verbs.lm_eval:HarnessModel")

            spec.loader.exec_module = run_and_add
        return spec


sys.meta_path.insert(0, Finder)
