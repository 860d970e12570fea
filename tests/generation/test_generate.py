"""Generation together and through caches, against reading each text alone, whole, and anew for every token."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.examples import TINY, beam_ids, lively, sampled_ids, shape_of
from tests.oracles import beam as oracle
from thetahat.core.batch import Inputs, Source
from thetahat.core.errors import ConfigError
from thetahat.core.random import generator
from thetahat.core.visibility import Visibility
from thetahat.generation.beam import Beam, beam_search
from thetahat.generation.infill import infill
from thetahat.generation.sample import Sampling, choose_each
from thetahat.model.build import build_model
from thetahat.model.config import EncoderConfig, EncoderDecoderConfig
from thetahat.model.decoder import Decoder

SHAPE = shape_of(TINY)
CONFIGS = {"decoder": TINY, "encoder-decoder": EncoderDecoderConfig(**SHAPE, num_encoder_layers=1)}
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [5], [8, 9, 7, 9], [10, 10]]
GREEDY = Sampling(temperature=0, max_tokens=9)
START = 0


@cache
def model_of(kind, vocab_size=11, spread=1.0):
    """With `spread` below 1 the texts of a model are less certain."""
    model = lively(build_model(CONFIGS[kind], vocab_size))
    model.head.weight.data *= spread
    return model.eval()


@pytest.fixture(params=CONFIGS)
def model(request):
    return model_of(request.param)


def inputs_of(text, *, is_causal):
    tokens = torch.tensor([text])
    return Inputs(tokens, torch.arange(len(text))[None], Visibility(torch.zeros_like(tokens), is_causal=is_causal))


@torch.no_grad()
def next_logits(model, prompt, text):
    """Read without a cache."""
    if isinstance(model, Decoder):
        inputs = inputs_of([*prompt, *text], is_causal=True)
    else:
        inputs = inputs_of([START, *text], is_causal=True)
        source = Source(inputs_of(prompt, is_causal=False), torch.zeros_like(inputs.tokens))
        inputs = Inputs(inputs.tokens, inputs.position, inputs.visibility, source)
    return model.head(model.hidden(inputs)[0, -1:])[0]


def alone(model, prompt, sampling, end=None, row=0):
    text, draw = [], generator(sampling.seed, "generate", row)
    while len(text) < sampling.max_tokens:
        (token,) = choose_each(next_logits(model, prompt, text).float()[None], sampling, [draw])
        if token == end:
            break
        text.append(token)
    return text


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(max_tokens=9, seed=5, top_k=6, top_p=0.9, temperature=1.5)])
def test_texts_read_together_through_the_cache_are_those_read_alone_and_anew(model, sampling):
    free = [alone(model, prompt, sampling, row=row) for row, prompt in enumerate(PROMPTS)]
    end = free[0][3]  # so that rows end at different times
    expected = [alone(model, prompt, sampling, end, row) for row, prompt in enumerate(PROMPTS)]
    assert len(set(map(len, expected))) > 1
    assert sampled_ids(model, PROMPTS, sampling, context=64, start=START) == free
    assert sampled_ids(model, PROMPTS, sampling, context=64, end=end, start=START) == expected


def test_a_row_does_not_depend_on_the_others(model):
    sampling = Sampling(max_tokens=8, seed=1)
    together = sampled_ids(model, PROMPTS, sampling, context=64, start=START)
    changed = [PROMPTS[0], [2] * 9, PROMPTS[2]]
    assert sampled_ids(model, changed, sampling, context=64, start=START)[::2] == together[:3:2]


def test_equal_prompts_are_continued_differently(model):
    first, second = sampled_ids(model, [[3, 1]] * 2, Sampling(max_tokens=9), context=64, start=START)
    assert first != second


@pytest.mark.parametrize("context", [1, 2, 5, 8])
def test_full_contexts_are_cut_for_each_row_as_if_it_were_alone(model, context):
    """Rows fill their contexts at different times."""
    one_by_one = [sampled_ids(model, [prompt], GREEDY, context=context, end=START)[0] for prompt in PROMPTS]
    assert sampled_ids(model, PROMPTS, GREEDY, context=context, end=START) == one_by_one


def test_the_later_half_of_a_full_context_is_read_again():
    """Read anew for every token: the first time all, then the last half and what came after it."""
    model, prompt, text = model_of("decoder"), [3, 1, 4], []
    read = list(prompt)
    for _ in range(GREEDY.max_tokens):
        text.append(int(next_logits(model, read, []).argmax()))
        read.append(text[-1])
        read = read[-3:] if len(read) > 6 else read
    assert sampled_ids(model, [prompt], GREEDY, context=6) == [text]


@torch.no_grad()
def open_logits(model, read, num_open):
    """Read anew, the first `num_open` tokens both ways, as a prefix model is trained."""
    tokens = torch.tensor([read])
    place = torch.arange(len(read))[None]
    inputs = Inputs(tokens, place, Visibility(torch.zeros_like(tokens), is_open=place < num_open))
    return model.head(model.hidden(inputs)[0, -1:])[0]


@pytest.mark.parametrize("context", [6, 64])
def test_a_prompt_that_opens_is_read_both_ways_and_what_is_written_is_not(context):
    model, expected = model_of("decoder"), []
    for prompt in PROMPTS:
        read, num_open, text = prompt[-context:], len(prompt[-context:]), []
        for _ in range(GREEDY.max_tokens):
            text.append(int(open_logits(model, read, num_open).argmax()))
            read = [*read, text[-1]]
            if len(read) > context:
                read, num_open = read[-(context // 2) :], max(num_open - (len(read) - context // 2), 0)
        expected.append(text)
        assert sampled_ids(model, [prompt], GREEDY, context=context, opens=True) == [text]
    for end in (None, expected[0][1]):  # so that some rows end before the others
        ended = [text[: text.index(end)] if end in text else text for text in expected]
        assert sampled_ids(model, PROMPTS, GREEDY, context=context, end=end, opens=True) == ended
    assert sampled_ids(model, PROMPTS, GREEDY, context=context) != expected


def test_beams_behind_a_prompt_that_opens_are_those_of_the_oracle():
    model = model_of("decoder", 5, 0.3)
    beam = Beam(num_beams=3, max_tokens=4)
    prompts = [[3, 1, 4], [1, 2]]
    found = beam_ids(model, prompts, beam, context=64, end=START, opens=True)
    asked = [
        oracle.search(open_asker(model, prompt), beam.max_tokens, beam.length_exponent, START, beam.num_beams)
        for prompt in prompts
    ]
    assert found == asked


def open_asker(model, prompt):
    return lambda text: open_logits(model, [*prompt, *text], len(prompt)).log_softmax(-1).tolist()


def asker(model, prompt):
    """What `oracle` asks, by a pass over the whole text each time."""
    return lambda text: next_logits(model, prompt, text).log_softmax(-1).tolist()


@pytest.mark.parametrize("kind", CONFIGS)
def test_with_enough_beams_the_search_is_exhaustive(kind):
    """Four levels of four tokens have 108 continuations at most."""
    model, prompts, end = model_of(kind, 4, 0.3), [[1, 2, 3], [2]], START
    asked = [cache(asker(model, prompt)) for prompt in prompts]
    for exponent in (0.0, 0.6, 1.0, 2.0):
        beam = Beam(num_beams=108, length_exponent=exponent, max_tokens=4)
        found = beam_search(model, prompts, beam, context=16, end=end)
        assert found == [oracle.exhaustive(ask, 4, exponent, end) for ask in asked]


@settings(max_examples=15)
@given(
    st.sampled_from([*CONFIGS]),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    st.sampled_from([0.1, 0.3, 1.0]),
    st.integers(1, 5),
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=2),
)
def test_a_narrow_search_is_that_of_the_oracle(kind, num_beams, exponent, spread, max_tokens, prompts):
    model, beam = model_of(kind, 5, spread), Beam(num_beams=num_beams, length_exponent=exponent, max_tokens=max_tokens)
    found = beam_search(model, prompts, beam, context=16, end=START)
    asked = [oracle.search(asker(model, prompt), max_tokens, exponent, START, num_beams) for prompt in prompts]
    assert found == asked


def test_one_beam_is_greedy(model):
    end = alone(model, PROMPTS[0], GREEDY)[3]
    beam = Beam(num_beams=1, max_tokens=9)
    found = beam_search(model, PROMPTS, beam, context=64, end=end, start=START)
    assert found == sampled_ids(model, PROMPTS, GREEDY, context=64, end=end, start=START)


@torch.no_grad()
def filled_alone(model, text, mask, num_steps):
    text = list(text)
    for left in range(num_steps, 0, -1):
        log_probs = model.head(model.hidden(inputs_of(text, is_causal=False))[0])
        log_probs[:, mask] = -torch.inf
        log_probs = log_probs.log_softmax(-1)
        places = [place for place, token in enumerate(text) if token == mask]
        surest = sorted(places, key=lambda place: -log_probs[place].max())[: -(-len(places) // left)]
        for place in surest:
            text[place] = int(log_probs[place].argmax())
    return text


@pytest.mark.parametrize("num_steps", [None, 1, 2, 4, 9])
def test_masked_places_are_filled_the_most_certain_first(num_steps):
    model, mask = lively(build_model(EncoderConfig(**SHAPE), 11)).eval(), 10
    texts = [[1, 10, 3, 10, 10], [0, *[10] * 6], [4, 5], [6, 10]]
    texts += [[first, *[10] * 4, second, 10, 10] for first in range(4) for second in range(4)]
    expected = [filled_alone(model, text, mask, num_steps or max(text.count(mask), 1)) for text in texts]
    found = infill(model, texts, mask, num_steps=num_steps)
    assert found == expected
    assert all(mask not in text for text in found)
    assert texts[1] == [0, *[10] * 6]  # what came is not changed


def test_no_place_is_filled_with_the_mask_itself():
    """Whichever token it is, so also where it would be the most likely."""
    model = lively(build_model(EncoderConfig(**SHAPE), 11)).eval()
    for mask in range(11):
        text = [(mask + 1) % 11, mask, mask, (mask + 2) % 11, mask]
        assert mask not in infill(model, [text], mask)[0]


def test_the_order_of_filling_matters():
    model = lively(build_model(EncoderConfig(**SHAPE), 11)).eval()
    at_once, one_by_one = (infill(model, [[0, *[10] * 6]], 10, num_steps=steps) for steps in (1, None))
    assert at_once != one_by_one


def test_nothing_to_fill_is_nothing_and_an_empty_prompt_is_refused(model):
    assert infill(lively(build_model(EncoderConfig(**SHAPE), 11)), [], 10) == []
    with pytest.raises(ConfigError, match="no token"):
        sampled_ids(model, [[1], []], GREEDY, context=8, end=0)
    with pytest.raises(ConfigError, match="fills nothing"):
        infill(lively(build_model(EncoderConfig(**SHAPE), 11)), [[10]], 10, num_steps=0)


def test_an_encoder_decoder_must_be_told_where_to_start():
    with pytest.raises(ConfigError, match="start with"):
        sampled_ids(model_of("encoder-decoder"), PROMPTS, GREEDY, context=8)
