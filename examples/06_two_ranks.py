"""Two processes train one model, and what they compute is what one computes.

torchrun --nproc-per-node 2 examples/06_two_ranks.py
python examples/06_two_ranks.py              # one process: the same numbers, but for rounding
"""

import torch

import thetahat as th

shape = ["model.num_layers=2", "model.width=64", "model.num_heads=2", "model.num_kv_heads=1", "model.inner_width=192"]
sizes = ["data.context=64", "data.vocab_size=512", "max_steps=50"]
config = th.override(th.find_recipe("quickstart"), [*shape, *sizes])
torch.set_num_threads(1)

# `th.train(config, folder)` needs no more than torchrun. This is what it does, by hand:
world = th.join_world("cpu")  # what torchrun says; without it, a world of one
data = th.prepare(config, world=world)  # the first rank prepares, the others read its cache
model = th.first_model(config, data.tokenizer.vocab_size)  # drawn from the seed, so the same on every rank
parameters = list(model.parameters())
optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.98))

for step in range(data.num_steps):
    batches = data.batches(step, world)  # the rows of this rank
    weight, _ = th.weigh(batches, world)  # of the batch of all ranks: sums travel, and are divided once
    total = th.Total.zero()
    for batch in batches:
        part = th.log_likelihood(model, batch)
        (-part.log_prob / weight).backward()
        total += part.detach()
    world.sum_gradients(parameters)
    th.clip_gradients(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    log_prob = world.sum(total.log_prob).item()
    if world.is_first and step % 10 == 9:
        print(f"step {step + 1:3}  {log_prob / weight:.6f} nats per token, {world.size} ranks")
world.leave()
