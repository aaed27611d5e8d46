"""Chat templates of every known shape: prompt, label and end of each.

All are in words of our own; what they share with those in use is where they write what.
"""

from typing import Any

import pytest
from tiny_models import CHATML_TEMPLATE, END, LLAMA_TEMPLATE, tiny_tokenizer

from lightning_unlearn.data.chat import ChatFormat

QUESTION, ANSWER = "Where was the author born?", "By the sea."
THOUGHT = "<think>\n\n</think>\n\n"
TAGS = ("<think>", "</think>", "<|turn|>", "<|stop|>")


def turns(before: str, answer: str, end: str, header: str, generation: str) -> str:
    """A template: user turns, the answer between its header and its end, and the open header."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + "{{ " + header + " }}" + answer + end
        + "{% else %}" + before + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ " + generation + " }}{% endif %}"
    )  # fmt: skip


USER = "{{ '<|user|>' + m.content + '<|end|>' }}"
SAID = "{{ m.content }}"
STOP = "{{ '<|end|>' }}"
OFF = "(enable_thinking is defined and enable_thinking is false)"
BLOCK = "'" + THOUGHT.replace("\n", "\\n") + "'"
# Name: template, prompt after the question, label. Every label ends with the end-of-turn token.
SHAPES = {
    "chatml": (CHATML_TEMPLATE, f"{END}\n<|assistant|>\n", f"{ANSWER}{END}"),
    "llama": (LLAMA_TEMPLATE, f"{END}<|assistant|>\n\n", f"{ANSWER}{END}"),
    # The first template of Llama 3 always ends with the header of the next answer.
    "always-a-header": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n\n' + m.content | trim + '<|end|>' }}"
        "{% endfor %}{{ '<|assistant|>\n\n' }}",
        f"{END}<|assistant|>\n\n",
        f"{ANSWER}{END}",
    ),
    # Gemma: another name for the role, a newline after the end.
    "gemma": (
        turns("{{ '<|turn|>user\n' + m.content + '<|stop|>\n' }}", "{{ m.content | trim }}",
              "{{ '<|stop|>\n' }}", "'<|turn|>model\n'", "'<|turn|>model\n'"),
        "<|stop|>\n<|turn|>model\n",
        f"{ANSWER}<|stop|>",
    ),
    # Mistral: no header; a space before the answer, none before the end.
    "mistral": (
        turns("{{ '[INST] ' + m.content + ' [/INST]' }}", SAID, STOP, "' '", "''"),
        " [/INST]",
        f" {ANSWER}{END}",
    ),
    # An empty thinking block before the last answer only; in the prompt if thinking is off.
    "thinks-in-both": (
        turns(USER, SAID, STOP, f"'<|assistant|>' + {BLOCK}",
              f"'<|assistant|>' + ({BLOCK} if {OFF} else '')"),
        f"{END}<|assistant|>{THOUGHT}",
        f"{ANSWER}{END}",
    ),
    # The same, without a switch for thinking.
    "thinks-in-the-answer": (
        turns(USER, SAID, STOP, f"'<|assistant|>' + {BLOCK}", "'<|assistant|>'"),
        f"{END}<|assistant|>{THOUGHT}",
        f"{ANSWER}{END}",
    ),
    "thinks-in-the-prompt": (
        turns(USER, SAID, STOP, "'<|assistant|>'",
              f"'<|assistant|>' + ({BLOCK} if {OFF} else '')"),
        f"{END}<|assistant|>{THOUGHT}",
        f"{ANSWER}{END}",
    ),
    # Other names of the switch for thinking.
    "thinking": (
        turns(USER, SAID, STOP, "'<|assistant|></think>'",
              "'<|assistant|>' + ('<think>' if thinking | default(true) else '</think>')"),
        f"{END}<|assistant|></think>",
        f"{ANSWER}{END}",
    ),
    # The prompt opens a thinking block that cannot be switched off; complete chats have none.
    "opens-a-thought": (
        turns(USER, SAID, STOP, "'<|assistant|>'", "'<|assistant|><think>\n'"),
        f"{END}<|assistant|>",
        f"{ANSWER}{END}",
    ),
    "closes-it": (
        turns(USER, SAID, STOP, f"'<|assistant|>' + {BLOCK}", "'<|assistant|><think>\n'"),
        f"{END}<|assistant|>{THOUGHT}",
        f"{ANSWER}{END}",
    ),
    # Prompt and complete chat write different blocks: the one of the prompt is used.
    "two-blocks": (
        turns(USER, SAID, STOP, f"'<|assistant|>' + {BLOCK}", "'<|assistant|><think></think>\n'"),
        f"{END}<|assistant|><think></think>\n",
        f"{ANSWER}{END}",
    ),
    # A newline of the header that only a complete conversation has; a channel (gpt-oss).
    "newline": (
        turns(USER, SAID, STOP, "'<|assistant|>\n'", "'<|assistant|>'"),
        f"{END}<|assistant|>\n",
        f"{ANSWER}{END}",
    ),
    "channel": (
        turns(USER, SAID, STOP, "'<|assistant|>final<|turn|>'", "'<|assistant|>'"),
        f"{END}<|assistant|>final<|turn|>",
        f"{ANSWER}{END}",
    ),
    # Further tokens after the end, which some templates write at the end of a conversation.
    "end-of-text-too": (
        turns(USER, SAID, "{{ '<|stop|>\n<|end|>' }}", "'<|assistant|>'", "'<|assistant|>'"),
        f"{END}<|assistant|>",
        f"{ANSWER}<|stop|>",
    ),
}  # fmt: skip
every_shape = pytest.mark.parametrize("shape", SHAPES)


def tokenizer_of(template: Any) -> Any:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(list(TAGS))
    return tokenizer


def shaped(shape: str, max_length: int = 512) -> ChatFormat:
    return ChatFormat(tokenizer_of(SHAPES[shape][0]), max_length)
