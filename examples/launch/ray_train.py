"""Ray Train starts the ranks: python examples/launch/ray_train.py WORKERS KEY=VALUE... (in a Ray cluster, or alone).

A worker that is lost is started again, and the run goes on from its last checkpoint: its folder must be one that every
node sees. Ray does not train in the main thread, so signals are not heard: nothing is saved by SIGTERM.
"""

import sys
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

import thetahat as th


def worker(settings):
    config = th.override(th.find_recipe("quickstart"), settings["keys"])
    for report in th.train(config, Path(settings["out"])):
        if report.step and report.step.step % 10 == 0:  # an evaluation alone is no step
            ray.train.report({"step": report.step.step})


if __name__ == "__main__":
    num_workers, *keys = sys.argv[1:] or ["2"]
    trainer = TorchTrainer(
        worker,
        train_loop_config={"keys": keys, "out": str(Path("runs/ray").absolute())},
        scaling_config=ray.train.ScalingConfig(num_workers=int(num_workers), use_gpu="device=cpu" not in keys),
        torch_config=TorchConfig(backend="gloo" if "device=cpu" in keys else "cpu:gloo,cuda:nccl"),
        run_config=ray.train.RunConfig(
            name="thetahat",
            storage_path=str(Path("runs/ray-state").absolute()),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    )
    trainer.fit()
