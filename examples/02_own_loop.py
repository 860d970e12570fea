"""A training loop of your own: the five things that a step does, with an optimizer of torch.

python examples/02_own_loop.py
"""

import torch

import thetahat as th

shape = ["model.num_layers=2", "model.width=64", "model.num_heads=2", "model.num_kv_heads=1", "model.inner_width=192"]
sizes = ["data.context=64", "data.vocab_size=512", "micro_batch_size=8", "max_steps=60"]
config = th.override(th.find_recipe("quickstart"), [*shape, *sizes])

data = th.prepare(config)  # a tokenizer, both parts of the text as tokens, and the order of training
model = th.first_model(config, data.tokenizer.vocab_size)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))

for step in range(data.num_steps):
    batches = data.batches(step)  # two micro-batches of eight rows, a function of the step alone
    # 1. weigh the whole batch, before any gradient exists
    weight, num_targets = th.weigh(batches)
    # 2. log-probabilities and their gradient, a micro-batch at a time. It is divided by the weight of the whole batch,
    #    so that it does not depend on how the batch was cut. The minus is there because optimizers go downhill.
    total = th.Total.zero()
    for batch in batches:
        part = th.log_likelihood(model, batch)
        (-part.log_prob / weight).backward()
        total += part.detach()
    # 3. clip by the norm of the whole gradient
    norm = th.clip_gradients(model.parameters(), 1.0)
    # 4. update
    optimizer.step()
    optimizer.zero_grad()
    # 5. say what happened
    if step % 10 == 9:
        print(f"step {step + 1:3}  {total.mean().item():.3f} nats per token, {num_targets} targets, norm {norm:.2f}")
print(f"held out: {th.evaluate(model, data).bits_per_byte:.3f} bits per byte")
