"""serve.py: its answers are transformers', and text given out piece by piece is the text given out at once."""

import json
import random
import subprocess
import sys

import pytest
from conftest import TEXT, random_conversation, random_text

from sluice_text.detokenizer import Detokenizer
from sluice_text.tokenizer import Tokenizer


class Client:
    def __init__(self, directory):
        self.process = subprocess.Popen([sys.executable, TEXT / "serve.py", "--model", directory], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self.greeting = json.loads(self.process.stdout.readline())

    def ask(self, **request):
        return self.send(json.dumps(request))

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        return self.process.wait(timeout=10)


@pytest.fixture(scope="module")
def client(smollm2):
    client = Client(smollm2)
    yield client
    assert client.close() == 0


def test_it_greets_with_what_generation_needs(client, judge):
    assert client.greeting == {"ready": True, "eos_token_ids": [judge.eos_token_id], "vocabulary_size": len(judge),
                               "has_chat_template": True}


def test_answers_are_those_of_transformers(client, judge):
    source = random.Random(51)
    for _ in range(50):
        messages, text = random_conversation(source), random_text(source)
        prompt = judge.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert client.ask(op="encode_chat", messages=messages)["ids"] == prompt
        whole = judge.apply_chat_template(messages, return_dict=False)
        assert client.ask(op="encode_chat", messages=messages, add_generation_prompt=False)["ids"] == whole
        assert client.ask(op="encode", text=text)["ids"] == judge(text)["input_ids"]
        for skip in (True, False):
            decoded = judge.decode(prompt, skip_special_tokens=skip)
            assert client.ask(op="decode", ids=prompt, skip_special_tokens=skip)["text"] == decoded


@pytest.mark.parametrize("line", [
    "x", "[]", "{}", '{"op": "fly"}', '{"op": "encode"}', '{"op": "encode", "text": 7}', '{"op": "encode", "text": "\\ud800"}',
    '{"op": "decode", "ids": [-1]}', '{"op": "decode", "ids": ["a"]}', '{"op": "stream", "ids": [1]}',
    '{"op": "encode_chat", "messages": [{"role": "user"}]}', '{"op": "encode_chat", "messages": 3}'])
def test_a_wrong_request_gets_an_error_and_the_next_one_its_answer(client, line):
    answer = client.send(line)
    assert list(answer) == ["error"] and "\n" not in answer["error"]
    assert client.ask(op="decode", ids=client.ask(op="encode", text="still here")["ids"]) == {"text": "still here"}


def test_a_missing_model_exits_with_one_message(tmp_path):
    done = subprocess.run([sys.executable, TEXT / "serve.py", "--model", tmp_path / "none"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: ")


def test_a_stream_shows_no_half_character(client):
    ids = client.ask(op="encode", text="日本語 👩‍👩‍👧 ok")["ids"]
    assert client.ask(op="stream_begin") == {}
    pieces = [client.ask(op="stream", ids=[token])["text"] for token in ids]
    pieces.append(client.ask(op="stream_end")["text"])
    assert "".join(pieces) == "日本語 👩‍👩‍👧 ok"
    assert not any("\ufffd" in piece for piece in pieces) and "" in pieces


@pytest.mark.parametrize("model", ["smollm2", "llama_like"])
@pytest.mark.parametrize("skip", [True, False])
def test_pieces_joined_are_the_whole(model, skip, request):
    tokenizer = Tokenizer(request.getfixturevalue(model))
    source = random.Random(52)
    for _ in range(150):
        ids = tokenizer.encode_with_specials(random_text(source))
        for _ in range(source.randint(0, 3)):  # special tokens in the middle, as a model may write them
            at = source.randrange(len(ids) + 1)
            # Not inside a character: the library's decoder then gives up on whole characters before it, too late for a stream.
            if not tokenizer.decode(ids[:at], skip).endswith("\ufffd"):
                ids.insert(at, source.choice(tokenizer.stop_ids))
        detokenizer, pieces, rest = Detokenizer(tokenizer, skip), [], list(ids)
        while rest:
            count = source.randint(1, 4)
            pieces.append(detokenizer.push(rest[:count]))
            rest = rest[count:]
        pieces.append(detokenizer.finish())
        assert "".join(pieces) == tokenizer.decode(ids, skip), ids


def test_bytes_that_are_no_text_do_not_hold_the_stream_up(tokenizer):
    start = tokenizer.encode("日")[0]
    assert "\ufffd" in tokenizer.decode([start])  # opens a character that needs more
    detokenizer = Detokenizer(tokenizer)
    shown = [detokenizer.push([start]) for _ in range(40)]
    assert "".join(shown).count("\ufffd") >= 30
    assert detokenizer.push(tokenizer.encode(" fine")).endswith(" fine")
