"""A Transformer of any composition, the slow way: NumPy, loops over positions and heads, one sequence alone.

It reads the plain values of a config (`to_plain`) and the parameters by name. Every position writes out what it sees;
there are no rows, masks, caches or kernels. Formulas are those of the papers that `model/config.py` names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import erf

Array = np.ndarray
Plain = Mapping[str, Any]
Branch = Callable[[Array], Array]

ACTIVATIONS: Mapping[str, Branch] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


class Composed:
    """The states and logits of one sequence."""

    def __init__(self, config: Plain, parameters: Mapping[str, Array]) -> None:
        self.config, self.parameters = config, parameters
        self.tokens: Sequence[int] = ()
        self.routes: list[tuple[str, Array, Array, list[list[int]]]] = []  # name, logits, scores, what is chosen

    def logits(self, tokens: Sequence[int], source: Sequence[int] | None = None) -> Array:
        """[T, V]."""
        config, memory = self.config, None
        if source is not None:
            memory = self.stack("encoder.", source, config["num_encoder_layers"], sees_later=True)
        return self.logits_of(
            self.stack("", tokens, config["num_layers"], sees_later=config["kind"] == "encoder", memory=memory)
        )

    def logits_ahead(self, tokens: Sequence[int]) -> list[Array]:
        """[T, V] for the second, third, ... token ahead, of a decoder of attentions that has blocks for them."""
        config, found = self.config, []
        x = self.trunk("", tokens, config["num_layers"], sees_later=False)
        mixer = config["layers"][(config["num_layers"] - 1) % len(config["layers"])]
        for number in range(config["num_future"]):
            y = self.block(f"future.{number}.", x, mixer, layer=1, below="", sees_later=False, memory=None)
            found.append(self.logits_of(y if config["placement"] == "post" else self.norm("norm", y)))
        return found

    def logits_of(self, x: Array) -> Array:
        config = self.config
        head = config["head"]
        if transform := head.get("transform"):
            x = ACTIVATIONS[transform["activation"]](self.linear("transform.linear", x))
            x = self.norm("transform.norm", x) if transform["has_norm"] else x
        x = x * head["scale"]
        weight = self.parameters["embedding.weight" if config["ties_embeddings"] else "head.weight"]
        logits = x @ weight.T + self.parameters.get("head.bias", 0)
        return logits if "cap" not in head else head["cap"] * np.tanh(logits / head["cap"])

    def stack(
        self, below: str, tokens: Sequence[int], num_layers: int, *, sees_later: bool, memory: Array | None = None
    ) -> Array:
        x = self.trunk(below, tokens, num_layers, sees_later=sees_later, memory=memory)
        return x if self.config["placement"] == "post" else self.norm(f"{below}norm", x)

    def trunk(
        self, below: str, tokens: Sequence[int], num_layers: int, *, sees_later: bool, memory: Array | None = None
    ) -> Array:
        config, choices, self.tokens = self.config, self.config["embedding"], tokens
        x = np.stack([self.parameters["embedding.weight"][token] for token in tokens]) * choices["scale"]
        if choices["num_types"]:
            x = x + self.parameters[f"{below}type_embedding.weight"][0]
        match choices.get("positions"):
            case {"kind": "learned", "offset": offset}:
                x = x + np.stack(
                    [self.parameters[f"{below}position_embedding.weight"][p + offset] for p in range(len(x))]
                )
            case {"kind": "sinusoidal"}:
                x = x + np.stack([sinusoid(p, x.shape[1]) for p in range(len(x))])
            case _:
                pass
        if choices["has_norm"]:
            x = self.norm(f"{below}embedding_norm", x)
        if "width" in choices:
            x = self.linear(f"{below}widen", x)
        if "smear" in choices:
            x = self.smeared(f"{below}smear.", x)
        for layer in range(num_layers):
            name = f"{below}blocks.{0 if config['shares_layers'] else layer}."
            mixer = config["layers"][layer % len(config["layers"])]
            x = self.block(name, x, mixer, layer=layer, below=below, sees_later=sees_later, memory=memory)
        return x

    def smeared(self, name: str, x: Array) -> Array:
        """Each position with a share of the one before."""
        scale, gate = self.parameters[f"{name}scale"][0], self.parameters[f"{name}gate"]
        found = x.copy()
        for i in range(1, len(x)):
            score = sum(gate[j] * x[i, j] for j in range(len(gate)))
            found[i] = x[i] + scale / (1 + math.exp(-score)) * x[i - 1]
        return found

    def block(
        self, name: str, x: Array, mixer: Plain, *, layer: int, below: str, sees_later: bool, memory: Array | None
    ) -> Array:
        def branch(what: str, f: Branch) -> Array:
            """f of x, with the norms that the placement has before and behind it."""
            placement = self.config["placement"]
            is_left_out = what == "attention" and layer == 0 and self.config["skips_first_norm"]
            normed = placement in {"pre", "sandwich", "parallel"} and not is_left_out
            found = f(self.norm(f"{name}{what}_norm", x) if normed else x)
            return self.norm(f"{name}{what}_out_norm", found) if placement in {"sandwich", "branch"} else found

        def added(what: str, f: Branch) -> Array:
            total = self.weight_of_stream(below, memory) * x + self.scaled(f"{name}{what}", branch(what, f))
            return self.norm(f"{name}{what}_sum_norm", total) if self.config["placement"] == "post" else total

        def attend(y: Array) -> Array:
            if mixer["kind"] == "latent":
                return self.latent(f"{name}attention.", y, mixer, bias_of=below, sees_later=sees_later)
            return self.attention(f"{name}attention.", y, y, mixer, bias_of=below, sees_later=sees_later)

        def network(y: Array) -> Array:
            return self.mlp(f"{name}mlp.", y)

        def attend_to_source(y: Array) -> Array:
            assert memory is not None
            nowhere = {"positions": {"kind": "none"}}
            return self.attention(f"{name}cross_attention.", y, memory, nowhere, bias_of=None, sees_later=True)

        branches = {"attention": attend, "cross": attend_to_source, "mlp": network}
        if memory is None:
            del branches["cross"]
        if self.config["placement"] == "parallel":
            return x + sum(self.scaled(f"{name}{what}", branch(what, f)) for what, f in branches.items())
        for what, f in branches.items():
            x = added(what, f)
        return x

    def weight_of_stream(self, below: str, memory: Array | None) -> float:
        """DeepNorm's alpha: figure 2 of its paper."""
        config = self.config
        if config["residual"]["kind"] != "deepnorm":
            return 1.0
        if memory is not None:
            return (3 * config["num_layers"]) ** 0.25
        if below == "encoder.":
            return 0.81 * (config["num_encoder_layers"] ** 4 * config["num_layers"]) ** 0.0625
        return (2 * config["num_layers"]) ** 0.25

    def scaled(self, name: str, found: Array) -> Array:
        match self.config["residual"]:
            case {"kind": "sum", "scale": scale}:
                return scale * found
            case {"kind": "learned"}:
                return self.parameters[f"{name}_add.gain"] * found
            case {"kind": "deepnorm"}:
                return found
            case other:
                raise ValueError(other)

    def attention(self, name: str, x: Array, y: Array, mixer: Plain, *, bias_of: str | None, sees_later: bool) -> Array:
        q, (k, v) = self.heads(name, "query", x), self.keys_and_values(name, y, mixer)
        q = self.rotated(q, mixer["positions"]) if mixer["positions"]["kind"] == "rotary" else q
        read = self.attended(name, [q, k, v], mixer, bias_of=bias_of, sees_later=sees_later)
        return self.linear(f"{name}output", read)

    def latent(self, name: str, x: Array, mixer: Plain, *, bias_of: str, sees_later: bool) -> Array:
        """Equations 9 to 19 of DeepSeek-V2."""
        heads, turned, width = self.config["num_heads"], mixer["rotary_width"], self.config["head_width"]
        asking, epsilon = x, mixer.get("norm_epsilon")
        if "query_width" in mixer:
            asking = self.norm(f"{name}query_latent_norm", self.linear(f"{name}query_latent", x), epsilon)
        q = self.linear(f"{name}query", asking).reshape(len(x), heads, turned + width)
        q_turned, shared = q[..., :turned], self.linear(f"{name}rotary_key", x)[:, None]
        if mixer["positions"]["kind"] == "rotary":
            q_turned, shared = (self.rotated(one, mixer["positions"]) for one in (q_turned, shared))
        latent = self.norm(f"{name}latent_norm", self.linear(f"{name}latent", x), epsilon)
        k, v = (self.linear(f"{name}{what}", latent).reshape(len(x), heads, width) for what in ("key", "value"))
        q, k = np.concatenate([q_turned, q[..., turned:]], -1), np.concatenate([shared.repeat(heads, 1), k], -1)
        read = self.attended(name, [q, k, v], mixer, bias_of=bias_of, sees_later=sees_later)
        return self.linear(f"{name}output", read)

    def attended(self, name: str, given: list[Array], mixer: Plain, *, bias_of: str | None, sees_later: bool) -> Array:
        """What each position reads, a head at a time."""
        config, choices, (q, k, v) = self.config, self.config["attention"], given
        groups, scale = q.shape[1] // k.shape[1], choices.get("scale", q.shape[2] ** -0.5)
        read = np.zeros((len(q), config["num_heads"], v.shape[2]))
        for i in range(len(q)):
            near, first = mixer.get("distance", math.inf), mixer.get("num_global", 0)
            is_near = [bias_of is None or abs(i - j) <= near or i < first or j < first for j in range(len(k))]
            seen = [j for j in range(len(k)) if (sees_later or j <= i) and is_near[j]]
            for h in range(config["num_heads"]):
                scores = np.array([scale * q[i, h] @ k[j, h // groups] for j in seen])
                if "relative" in choices and bias_of is not None:
                    table = self.parameters[f"{bias_of}relative_embedding.weight"]
                    scores = scores + np.array(
                        [table[bucket(j - i, choices["relative"], both_ways=sees_later), h] for j in seen]
                    )
                if mixer["positions"]["kind"] == "alibi":
                    scores = scores - np.array([slope(h, config["num_heads"]) * abs(i - j) for j in seen])
                scores = scores if "cap" not in choices else choices["cap"] * np.tanh(scores / choices["cap"])
                share, nothing = np.exp(scores), 0.0
                if choices["sinks"] != "none":
                    nothing = np.exp(self.parameters[f"{name}sinks"][h] if choices["sinks"] == "learned" else 0.0)
                read[i, h] = (share / (share.sum() + nothing)) @ v[seen, h // groups]
        return read.reshape(len(q), -1)

    def keys_and_values(self, name: str, x: Array, mixer: Plain) -> tuple[Array, Array]:
        """Of this attention, or of the last one before it that has some."""
        if f"{name}key.weight" not in self.parameters:
            return self.shared
        k, v = self.heads(name, "key", x), self.linear(f"{name}value", x)
        k = self.rotated(k, mixer["positions"]) if mixer["positions"]["kind"] == "rotary" else k
        v = v.reshape(len(x), -1, self.config["head_width"])
        if f"{name}value_embedding.weight" in self.parameters:
            v = v + self.value_rows(name, x)
        if ".attention." in name:
            self.shared = k, v
        return k, v

    def value_rows(self, name: str, x: Array) -> Array:
        """What each group of heads adds to its values: a row of its token's, as much as its gate lets through."""
        table, weight = (self.parameters[f"{name}value_{what}.weight"] for what in ("embedding", "gate"))
        found = np.zeros((len(x), len(weight), self.config["head_width"]))
        for i, token in enumerate(self.tokens):
            for g, row in enumerate(table[token].reshape(len(weight), -1)):
                score = sum(weight[g, j] * x[i, j] for j in range(weight.shape[1]))
                found[i, g] = 2 / (1 + math.exp(-score)) * row
        return found

    def heads(self, name: str, what: str, x: Array) -> Array:
        projected, kind = self.linear(f"{name}{what}", x), self.config["attention"]["query_key_norm"]
        width = self.config["head_width"]
        if kind == "joined":
            return self.norm(f"{name}{what}_norm", projected).reshape(len(x), -1, width)
        apart = projected.reshape(len(x), -1, width)
        return self.norm(f"{name}{what}_norm", apart) if kind == "head" else apart

    def rotated(self, x: Array, rotary: Plain) -> Array:
        base, width = rotary.get("base", self.config["rope_base"]), int(x.shape[-1] * rotary["share"])
        turned = x.copy()
        for j in range(width // 2):
            frequency, length = scaled(base ** (-2 * j / width), rotary.get("scaling"), j, base, width)
            for p in range(len(x)):
                cos, sin = length * math.cos(p * frequency), length * math.sin(p * frequency)
                a, b = x[p, :, j], x[p, :, j + width // 2]
                turned[p, :, j], turned[p, :, j + width // 2] = a * cos - b * sin, b * cos + a * sin
        return turned

    def mlp(self, name: str, x: Array) -> Array:
        return self.mixture(name, x) if f"{name}router.weight" in self.parameters else self.network(name, x)

    def mixture(self, name: str, x: Array) -> Array:
        """One position after the other, each through what it chooses."""
        choices, found = self.config["experts"], np.zeros_like(x)
        logits = x @ self.parameters[f"{name}router.weight"].T
        sigmoid = choices["scores"] == "sigmoid"
        scores = 1 / (1 + np.exp(-logits)) if sigmoid else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        compared = scores + self.parameters.get(f"{name}router.bias", 0)
        every = [self.best(row.tolist(), choices) for row in compared]
        for position, chosen in enumerate(every):
            divisor = sum(scores[position, i] for i in chosen) if choices["normalizes"] else 1
            for i in chosen:
                weight = choices["scale"] * scores[position, i] / divisor
                found[position] += weight * self.network(f"{name}experts.{i}.", x[position : position + 1])[0]
        self.routes.append((name, logits, scores, every))
        return found + self.network(f"{name}shared.", x) if choices["shared_width"] else found

    def best(self, row: list[float], choices: Plain) -> list[int]:
        """The experts of one position: of its best groups, each judged by its best scores, the best."""
        size, number = len(row) // choices["num_groups"], 2 if choices["group_score"] == "best-two" else 1
        groups = [list(range(start, start + size)) for start in range(0, len(row), size)]
        groups.sort(key=lambda group: -sum(sorted((row[i] for i in group), reverse=True)[:number]))
        allowed = [i for group in groups[: choices["num_chosen_groups"]] for i in group]
        return sorted(allowed, key=lambda i: (-row[i], i))[: choices["num_chosen"]]

    def network(self, name: str, x: Array) -> Array:
        choices, f = self.config["mlp"], ACTIVATIONS[self.config["mlp"]["activation"]]
        up = self.linear(f"{name}up", x)
        return self.linear(f"{name}down", f(self.linear(f"{name}gate", x)) * up if choices["is_gated"] else f(up))

    def norm(self, name: str, x: Array, epsilon: float | None = None) -> Array:
        kind, gain = self.config["norm"], self.parameters[f"{name}.gain"]
        epsilon = self.config["norm_epsilon"] if epsilon is None else epsilon
        if kind["kind"] == "rms":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * (gain + kind["adds_one"])
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return normed * gain + self.parameters.get(f"{name}.bias", 0)

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.parameters[f"{name}.weight"].T + self.parameters.get(f"{name}.bias", 0)


def sinusoid(position: int, width: int) -> Array:
    angles = [position / 10_000 ** (2 * j / width) for j in range(width // 2)]
    return np.array([*map(math.sin, angles), *map(math.cos, angles)])


def scaled(frequency: float, scaling: Plain | None, j: int, base: float, width: int) -> tuple[float, float]:
    """The frequency of pair j, and the length of the rotated pair."""
    match scaling:
        case None:
            return frequency, 1.0
        case {"kind": "linear", "factor": factor}:
            return frequency / factor, 1.0
        case {"kind": "llama3", "factor": factor, "context": context}:
            low, high = scaling["low_frequency_factor"], scaling["high_frequency_factor"]
            wavelength = 2 * math.pi / frequency
            if wavelength < context / high:
                return frequency, 1.0
            if wavelength > context / low:
                return frequency / factor, 1.0
            smooth = (context / wavelength - low) / (high - low)
            return (1 - smooth) * frequency / factor + smooth * frequency, 1.0
        case {"kind": "yarn", "factor": factor, "context": context}:
            ends = [
                width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))
                for turns in (scaling["beta_fast"], scaling["beta_slow"])
            ]
            if scaling["truncates"]:
                ends = [math.floor(ends[0]), math.ceil(ends[1])]
            low, high = max(ends[0], 0), min(ends[1], width - 1)
            ramp = min(max((j - low) / (high - low if high != low else 0.001), 0), 1)
            length = scaling.get("attention_factor", 0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
            return frequency / factor * ramp + frequency * (1 - ramp), length
        case _:
            raise ValueError(scaling)


def slope(head: int, num_heads: int) -> float:
    """The published rule: powers of one number, and beyond a power of two every other one of twice as many heads."""
    if math.log2(num_heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(num_heads) - 3)))
        return start * start**head
    closest = 2 ** math.floor(math.log2(num_heads))
    return slope(head, closest) if head < closest else slope(2 * (head - closest), 2 * closest)


def bucket(delta: int, relative: Plain, *, both_ways: bool) -> int:
    """The published rule, a branch at a time: delta = position of the key - position of the query."""
    number, first = relative["num_buckets"], 0
    if both_ways:
        number //= 2
        first = number if delta > 0 else 0
        distance = abs(delta)
    else:
        distance = max(-delta, 0)
    exact = number // 2
    if distance < exact:
        return first + distance
    grown = math.log(distance / exact) / math.log(relative["max_distance"] / exact) * (number - exact)
    return first + min(exact + int(grown), number - 1)
