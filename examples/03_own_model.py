"""A model of your own: any module with `hidden` and `head`. It is checked, trained and scored as ours are.

python examples/03_own_model.py
"""

import torch
from torch import nn

import thetahat as th


class OneLayer(nn.Module):
    def __init__(self, vocab_size, width=64, context=64):
        super().__init__()
        self.token, self.place = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.attention = nn.MultiheadAttention(width, num_heads=1, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256), nn.GELU(), nn.Linear(256, width))
        self.head = th.Head(width, vocab_size)  # from a state to a logit for each token

    def hidden(self, inputs):  # a state for each position; several documents lie side by side in a row
        x = self.token(inputs.tokens) + self.place(inputs.position)
        unseen = ~inputs.visibility.mask()  # [B, T, T]: all but the earlier positions of the same document
        x = x + self.attention(x, x, x, attn_mask=unseen, need_weights=False)[0]
        return x + self.mlp(x)


data = th.prepare(th.override(th.find_recipe("quickstart"), ["data.context=64", "data.vocab_size=512", "max_steps=60"]))
model = OneLayer(data.tokenizer.vocab_size)
print("holds:", ", ".join(th.check_model(model, data.tokenizer.vocab_size)))  # an error if it reads the future

optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(data.num_steps):  # the loop of the example before, in short
    batches = data.batches(step)
    for batch in batches:
        (-th.log_likelihood(model, batch).log_prob / th.weigh(batches).weight).backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"held out: {th.evaluate(model, data).bits_per_byte:.3f} bits per byte")
