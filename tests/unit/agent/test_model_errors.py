"""What the failures of model servers mean, in their own words."""

from __future__ import annotations

import json

import pytest

from chatbot.agent.model_errors import LONGEST, Filtered, TooLong, in_answer, meaning, pause
from chatbot.errors import ModelTimeout, Permanent, ServiceDown, Transient

TOO_LONG = [
    (400, "the request exceeds the available context size. try increasing the context size or enable context shift"),
    (400, "request (2345 tokens) exceeds the available context size (2048 tokens), try increasing it"),
    (500, "context size exceeded"),
    (400, "Requested tokens (2100) exceed context window of 2048"),
    (400, "Trying to keep the first 2371 tokens when context the overflows. However, the model is loaded with …"),
    (400, "The number of tokens to keep from the initial prompt is greater than the context length. Try to load …"),
    (400, "Reached context length of 4096 tokens, but this model does not currently support mid-generation …"),
    (400, "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens in the messages"),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is …"),
    (400, "The decoder prompt (length 2100) is longer than the maximum model length of 2048."),
    (400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens."),
    (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."),
    (400, "the input length exceeds the context length"),
    (413, "Request Entity Too Large"),
    (400, "Please reduce the length of the messages or completion."),
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (400, "The input token count (40000) exceeds the maximum number of tokens allowed (32768)."),
    (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2100"),
]  # fmt: skip

OTHERS = [
    (400, "Conversation roles must alternate", Permanent),
    (400, "invalid image", Permanent),
    (422, "field required", Permanent),
    (429, "Rate limit reached for gpt-4o", Transient),
    (409, "conflict", Transient),
    (401, "Incorrect API key", ServiceDown),
    (403, "Country not supported", ServiceDown),
    (404, "The model `x` does not exist", ServiceDown),
    (405, "no", ServiceDown),
    (301, "moved", ServiceDown),
    (500, "internal error", ServiceDown),
    (503, "Loading model", ServiceDown),
    (529, "overloaded", ServiceDown),
    (400, "API key not valid. Please pass a valid API key.", ServiceDown),
    (408, "too slow", ModelTimeout),
    (504, "gateway timeout", ModelTimeout),
    (524, "a timeout occurred", ModelTimeout),
]


@pytest.mark.parametrize(("status", "words"), TOO_LONG)
def test_a_request_that_is_too_long_is_recognised_however_it_is_said(status, words):
    for body in ({"error": {"message": words}}, {"error": words}, {"message": words}, {"detail": words}, words):
        assert type(meaning(status, json.dumps(body))) is TooLong
    assert type(meaning(status, words)) is TooLong


@pytest.mark.parametrize(("status", "words", "kind"), OTHERS)
def test_other_failures_are_what_they_are(status, words, kind):
    assert type(meaning(status, json.dumps({"error": {"message": words}}))) is kind


def test_codes_say_it_where_words_do_not():
    for code, kind in (
        ("context_length_exceeded", TooLong),
        ("exceed_context_size_error", TooLong),
        ("insufficient_quota", ServiceDown),
        ("content_filter", Filtered),
    ):
        assert type(meaning(400, json.dumps({"error": {"message": "no", "code": code}}))) is kind
        assert type(meaning(400, json.dumps({"error": {"message": "no", "type": code}}))) is kind


def test_an_error_within_an_answer_means_what_its_code_says():
    assert type(in_answer({"code": 429, "message": "slow"})) is Transient
    assert type(in_answer({"code": "502", "message": "down"})) is ServiceDown
    assert type(in_answer({"message": "down"})) is ServiceDown
    assert type(in_answer("down")) is ServiceDown


@pytest.mark.parametrize("body", ["", "null", "[]", "[" * 100_000, "{" * 100_000, '{"error": {"error": {}}}', "\ufffd",
                                  '{"error": [1]}', '{"error": {"code": {"a": []}, "message": 5}}'])  # fmt: skip
def test_whatever_stands_there_it_means_something(body):
    assert type(meaning(400, body)) is Permanent
    assert type(meaning(500, body)) is ServiceDown


def test_of_a_long_error_only_the_beginning_is_looked_at():
    words = "x" * LONGEST + "maximum context length"
    assert type(meaning(400, json.dumps({"error": {"message": words}}))) is Permanent
    assert type(meaning(400, words)) is Permanent


def test_no_word_of_it_is_repeated():
    for status in (200, 301, 400, 401, 413, 429, 500, 503, 504):
        said = str(meaning(status, json.dumps({"error": {"message": "529.982.247-25", "code": "529.982.247-25"}})))
        assert "529" not in said


def test_a_pause_is_a_number_of_seconds():
    assert [pause(given) for given in ("3", "0.5", None, "", "soon", "nan", "-1", "9e9")] == [
        3, 0.5, None, None, None, None, None, 3_600,
    ]  # fmt: skip
