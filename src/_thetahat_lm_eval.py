"""Tells lm-eval, once it has made its list of models, that `thetahat` is one.

lm-eval (0.4.13) looks for no plug-ins. So `thetahat_lm_eval.pth` has every Python that starts import this module, which
imports nothing and waits for `lm_eval.models` to be imported, as it is for anybody who never does.
"""

import sys


class Finder:
    """Lets others find `lm_eval.models`, and adds a name to its list when it has been run."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # noqa: ANN001, ANN205 - annotations would need imports
        """Of any other module: nothing."""
        if name != "lm_eval.models":
            return None
        sys.meta_path.remove(Finder)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_add(module):  # noqa: ANN001, ANN202
                run(module)
                from lm_eval.api.registry import model_registry

                model_registry.register("thetahat", target="thetahat.verbs.lm_eval:HarnessModel")

            spec.loader.exec_module = run_and_add
        return spec


sys.meta_path.insert(0, Finder)
