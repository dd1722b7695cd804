#!/usr/bin/env python3
"""Words to ids and back for `sluice generate`: JSON lines on stdin and stdout. README.md has the operations."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sluice_text.errors import TextError, run_command  # noqa: E402


class Server:
    def __init__(self, directory):
        from sluice_text.tokenizer import Tokenizer
        self._tokenizer = Tokenizer(directory)
        self._template = None
        self._stream = None

    def greeting(self):
        from sluice_text.chat_template import template_text
        return {"ready": True, "eos_token_ids": self._tokenizer.stop_ids,
                "vocabulary_size": self._tokenizer.vocabulary_size,
                "has_chat_template": template_text(self._tokenizer) is not None}

    def answer(self, line):
        """Never raises for what a client can do wrong: {"error": one line}."""
        from sluice_text.chat_template import TemplateRefused
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise TextError("a request is one JSON object on one line", "send {\"op\": ..}")
            operation = OPERATIONS.get(request.get("op"))
            if operation is None:
                raise TextError(f"unknown op {request.get('op')!r}; known: {', '.join(OPERATIONS)}", "send one of them")
            return operation(self, request)
        except KeyError as error:
            return {"error": f"the request lacks {error}"}
        except TemplateRefused as error:
            return {"error": f"the model's chat template refuses this conversation: {error}"}
        except (TextError, ValueError, TypeError, AttributeError, OverflowError) as error:
            return {"error": " ".join(str(error).split())}

    def encode_chat(self, request):
        from sluice_text.chat_template import ChatTemplate
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer)
        text = self._template.render(request["messages"], request.get("add_generation_prompt", True))
        return {"ids": self._tokenizer.encode(text)}

    def encode(self, request):
        text = request["text"]
        if request.get("add_special_tokens", True):
            return {"ids": self._tokenizer.encode_with_specials(text)}
        return {"ids": self._tokenizer.encode(text)}

    def decode(self, request):
        return {"text": self._tokenizer.decode(request["ids"], request.get("skip_special_tokens", True))}

    def stream_begin(self, request):
        from sluice_text.detokenizer import Detokenizer
        self._stream = Detokenizer(self._tokenizer, request.get("skip_special_tokens", True))
        return {}

    def stream(self, request):
        return {"text": self._begun_stream().push(request["ids"])}

    def stream_end(self, request):
        del request
        stream, self._stream = self._begun_stream(), None
        return {"text": stream.finish()}

    def _begun_stream(self):
        if self._stream is None:
            raise TextError("no stream was begun", "send stream_begin first")
        return self._stream


OPERATIONS = {name: getattr(Server, name) for name in
              ("encode_chat", "encode", "decode", "stream_begin", "stream", "stream_end")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face model directory")
    server = Server(parser.parse_args().model)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    print(json.dumps(server.greeting()), flush=True)
    for line in sys.stdin:
        if not line.isspace():
            print(json.dumps(server.answer(line)), flush=True)


if __name__ == "__main__":
    run_command(main)
