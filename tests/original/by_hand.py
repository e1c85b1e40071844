"""FLAVA's building blocks in plain Python on lists of floats, without torch's functions."""

import math

from torch import nn

from flava_port.original.encoder import Layer, Pooler, SelfAttention
from flava_port.original.heads import PredictionHead

Vector = list[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def dense(x: Vector, linear: nn.Linear) -> Vector:
    return add([dot(row, x) for row in linear.weight.tolist()], linear.bias.tolist())


def layer_norm(x: Vector, norm: nn.LayerNorm) -> Vector:
    mean = math.fsum(x) / len(x)
    variance = math.fsum((v - mean) ** 2 for v in x) / len(x)
    scale = 1 / math.sqrt(variance + norm.eps)
    parameters = zip(x, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(v - mean) * scale * w + b for v, w, b in parameters]


def gelu(x: Vector) -> Vector:
    return [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]


def softmax(x: Vector) -> Vector:
    exponentials = [math.exp(v - max(x)) for v in x]
    return [v / math.fsum(exponentials) for v in exponentials]


def cross_entropy(logits: Vector, label: int) -> float:
    return -math.log(softmax(logits)[label])


def attention(tokens: list[Vector], part: SelfAttention, seen: list[int]) -> list[Vector]:
    """Attention of every token to the tokens that are seen, head by head."""
    q, k, v = ([dense(token, linear) for token in tokens] for linear in (part.query, part.key, part.value))
    width = len(tokens[0]) // part.num_heads
    context = [[] for _ in tokens]
    for query, first in ((i, h * width) for i in range(len(tokens)) for h in range(part.num_heads)):
        head = slice(first, first + width)
        weights = softmax([dot(q[query][head], k[key][head]) / math.sqrt(width) for key in seen])
        context[query] += [dot(weights, [v[key][d] for key in seen]) for d in range(first, first + width)]
    return context


def layer(tokens: list[Vector], part: Layer, seen: list[int]) -> list[Vector]:
    attended = attention([layer_norm(token, part.layernorm_before) for token in tokens], part.attention.attention, seen)
    tokens = [add(x, dense(y, part.attention.output.dense)) for x, y in zip(tokens, attended, strict=True)]
    return [add(token, feed_forward(layer_norm(token, part.layernorm_after), part)) for token in tokens]


def feed_forward(x: Vector, part: Layer) -> Vector:
    return dense(gelu(dense(x, part.intermediate.dense)), part.output.dense)


def pooler(tokens: list[Vector], part: Pooler) -> Vector:
    return [math.tanh(v) for v in dense(tokens[0], part.dense)]


def head(x: Vector, part: PredictionHead) -> Vector:
    hidden = layer_norm(gelu(dense(x, part.transform.dense)), part.transform.LayerNorm)
    return add([dot(row, hidden) for row in part.decoder.weight.tolist()], part.bias.tolist())


def add(*vectors: Vector) -> Vector:
    return [math.fsum(values) for values in zip(*vectors, strict=True)]
