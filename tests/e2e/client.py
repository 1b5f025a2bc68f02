"""One call with Anthropic's Python SDK, and what came of it as a line of JSON. client.cjs is the same in JavaScript.

usage: client.py ACTION [OPTIONS], where OPTIONS is the client's options as JSON
"""

import json
import sys
import time

import anthropic

HELLO = {
    "model": "claude-sonnet-4-5-20250929",
    "max_tokens": 256,
    "messages": [{"role": "user", "content": "Hello"}],
}
TOOL = {
    "name": "weather",
    "description": "The weather of a place",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def plain(client, _):
    return told(client.messages.create(**HELLO))


def stream(client, start):
    kinds, first = [], None
    with client.messages.create(**HELLO, stream=True) as events:
        text = ""
        for event in events:
            if first is None:
                first = time.monotonic() - start
            kinds.append(event.type)
            if event.type == "content_block_delta":
                text += event.delta.text
    return {"text": text, "deltas": kinds.count("content_block_delta"), "last": kinds[-1], "first_s": first}


def accumulated(client, _):
    with client.messages.stream(**HELLO) as stream:
        return told(stream.get_final_message())


def tools(client, _):
    """Asks, answers the model's question for a tool, and asks again."""
    asked = {**HELLO, "tools": [TOOL]}
    with client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    use = [block for block in message.content if block.type == "tool_use"][0]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny in " + use.input["place"]}
    messages = [*asked["messages"], {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    return told(client.messages.create(**{**asked, "messages": messages}))


def count(client, _):
    ask = {key: HELLO[key] for key in ("model", "messages")}
    return {"input_tokens": client.messages.count_tokens(**ask).input_tokens}


def models(client, _):
    return {"models": [model.id for model in client.models.list()]}


def told(message):
    text = "".join(block.text for block in message.content if block.type == "text")
    return {"text": text, "stop": message.stop_reason, "output_tokens": message.usage.output_tokens}


def failure(error):
    answer = getattr(error, "response", None)
    body = getattr(error, "body", None)
    kind = body.get("error", {}).get("type") if isinstance(body, dict) else None
    found = {"class": type(error).__name__, "status": getattr(error, "status_code", None), "type": kind, "message": str(error)}
    if answer is not None:
        found["retry_after"] = answer.headers.get("retry-after")
        found["should_retry"] = answer.headers.get("x-should-retry")
    return found


def main():
    action, options = sys.argv[1], json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    start = time.monotonic()
    try:
        client = anthropic.Anthropic(**options)
        seen = globals()[action](client, start)
    except anthropic.APIError as error:
        seen = {"error": failure(error)}
    seen["took_s"] = time.monotonic() - start
    print(json.dumps(seen))


main()
