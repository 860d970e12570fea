"""The objective of flat targets and its gradient, with loops, in float64."""

import numpy as np


def logits_of(h, head):
    """Before and behind the soft cap."""
    weight = head.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.detach().double().numpy()
    inner = np.array([sum(float(a) * float(b) for a, b in zip(h, row, strict=True)) for row in weight]) + bias
    return inner, inner if head.cap is None else head.cap * np.tanh(inner / head.cap)


def told_of(hidden, head, targets):
    """log softmax, log Z and whether another is likelier, of each target."""
    found = []
    for h, t in zip(hidden.detach().double().numpy(), targets.numpy(), strict=True):
        _, logits = logits_of(h, head)
        largest = logits.max()
        log_normalizer = largest + np.log(sum(np.exp(z - largest) for z in logits))
        found.append((logits[t] - log_normalizer, log_normalizer, largest > logits[t]))
    return [np.array(column) for column in zip(*found, strict=True)]


def gradient_of(hidden, head, targets, of_log_prob, of_log_normalizer):
    """Of a function of log-probabilities and log Z, given its derivatives by each: by hidden, weight and bias."""
    states, weight = hidden.detach().double().numpy(), head.weight.detach().double().numpy()
    of_hidden, of_weight, of_bias = np.zeros_like(states), np.zeros_like(weight), np.zeros(len(weight))
    for i, (h, t) in enumerate(zip(states, targets.numpy(), strict=True)):
        inner, logits = logits_of(h, head)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        for v in range(len(weight)):
            slope = of_log_prob[i] * ((v == t) - share[v]) + of_log_normalizer[i] * share[v]
            slope *= 1.0 if head.cap is None else 1 - np.tanh(inner[v] / head.cap) ** 2
            of_hidden[i] += slope * weight[v]
            of_weight[v] += slope * h
            of_bias[v] += slope
    return [of_hidden, of_weight] + ([] if head.bias is None else [of_bias])
