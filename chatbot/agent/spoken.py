"""What a model says, without what was not meant for people.

In comes the text of an answer, out goes what a person may read, ``""`` where that is nothing.
Promises: thoughts, tool calls, the tokens of chat templates, the scaffolding of agents and the words
of roles are taken away; text that only looks a little like them stays as it is; an answer that was
cut off ends with a whole sentence. Time grows with the length of the text, which is bounded.
"""

from __future__ import annotations

import json
import re
from typing import Any

from chatbot.messages import writable

#: Characters of an answer that are read; WhatsApp takes 4,096 in a message.
LONGEST = 40_000


def clean(text: str, *, cut: bool = False) -> str:
    """Return what a person may read of an answer; ``cut`` says that it ended at its limit of tokens."""
    cut = cut or len(text) > LONGEST
    text = writable(text[:LONGEST]).strip()
    text = _without_thoughts(text)
    text = _of_the_assistant(text)
    text = _without_tool_calls(text)
    text = _without_data(text)
    text = _final_answer(text)
    text = _without_role(text).strip()
    if text in _NO_ANSWERS:
        return ""
    return _whole_sentences(text) if cut and text else text


#: What CrewAI says itself where a model said nothing.
_NO_ANSWERS = frozenset({"Agent completed execution but produced no final output."})


# -- thoughts ------------------------------------------------------------------------

_THOUGHT = re.compile(
    r"(?<!`)(?:<(/?)(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)>"
    r"|\[(/?)THINK\]|◁(/?)think▷|<\|(begin|end)_of_thought\|>)(?!`)",
    re.IGNORECASE,
)
_WRAPPER = re.compile(
    r"</?(?:answer|response|output|final|final_answer|result)>|<\|(?:begin|end)_of_solution\|>", re.IGNORECASE
)


def _without_thoughts(text: str) -> str:
    """Return what stands outside of thoughts; one that does not end ends with the text.

    Where only an end stands the beginning was the template's, and all before it is a thought.
    """
    kept, place, depth = [], 0, 0
    for mark in _THOUGHT.finditer(text):
        ends = "/" in mark.groups() or mark[4] == "end"
        if not depth and not ends:
            kept.append(text[place : mark.start()])
        elif not depth:
            kept = []
        depth = max(0, depth - 1) if ends else depth + 1
        place = mark.end()
    if not place:
        return text
    said = ("".join(kept) + ("" if depth else text[place:])).strip()
    wrapper = _WRAPPER.match(said)
    return _WRAPPER.sub("", said) if wrapper else said


# -- chat templates ------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?<!`)(?:<\|/?[A-Za-z][A-Za-z0-9_]{0,40}\|>|<｜[^｜<>\n]{1,40}｜>|<(?:start|end)_of_turn>|<bos>|<eos>|\[/?INST\])"
)
_ROLE = re.compile(r"\s*(assistant|user|system|model|developer|tool|human|ipython)\b[ \t]*\n?", re.IGNORECASE)
_ENDS = re.compile(
    r"im_end|eot_id|eom_id|end_of_turn|end_of_text|endoftext|end▁of▁sentence|end_of_sentence|eos|^<\|end\|>$|return"
    r"|end_of_message|END_OF_TURN_TOKEN|END_RESPONSE"
)
_STARTS = re.compile(r"im_start|start_header_id|<start_of_turn>|^<\|start\|>$|START_OF_TURN_TOKEN")
_NAMES_ROLE = re.compile(r"(user|assistant|system|model)[a-z_]{0,12}[|｜]>$", re.IGNORECASE)
#: Behind these a model calls tools.
_CALLS = re.compile(r"python_tag|tool_calls?_?(?:begin|start|section)?|tool▁calls?▁begin|call\|", re.IGNORECASE)
_HARMONY_BARE = re.compile(r"(?:assistant)?(?:analysis|commentary)", re.IGNORECASE)


def _of_the_assistant(text: str) -> str:
    """Return what the assistant's turn holds: Harmony's channel ``final`` where there are channels.

    A model that goes on with the next person's turn is not listened to any more.
    """
    if _HARMONY_BARE.match(text) and "assistantfinal" in text:
        return text.rpartition("assistantfinal")[2]  # the tokens themselves were left out
    text = _without_edges(text)
    pieces = _TOKEN.split(text)
    if len(pieces) == 1:
        return text
    turns = _Turns()
    for mark, piece in zip(["", *_TOKEN.findall(text)], pieces, strict=True):
        if not turns.go_on(mark, piece):
            break
    return "".join(turns.said).strip()


class _Turns:
    """Goes through the tokens of a template and keeps what the assistant says to the person."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._role = "assistant"
        self._channel = ""
        self._in_header = False
        self._spoke = False

    def go_on(self, mark: str, piece: str) -> bool:
        """Take a token and the text behind it; return whether what follows counts."""
        if _CALLS.search(mark):
            return False
        if mark == "<|channel|>":
            self._channel, self._in_header = piece.strip().split(" ")[0].lower(), True
            return True
        if _STARTS.search(mark):
            self._role, piece = _role(piece)
            self._channel, self._in_header = "", mark in {"<|start|>", "<|start_header_id|>"}
        elif mark == "<|message|>" or "end_header_id" in mark:
            self._in_header = False
        else:
            self._role = self._role_behind(mark)
        if self._spoke and self._role in {"user", "human", "system", "developer"}:
            return False
        if self._role in {"assistant", "model"} and self._channel in {"", "final"} and not self._in_header:
            self.said.append(piece)
            self._spoke = self._spoke or bool(piece.strip())
        return True

    def _role_behind(self, mark: str) -> str:
        if mark in {"[INST]", "[/INST]"}:
            return "user" if mark == "[INST]" else "assistant"
        if named := _NAMES_ROLE.search(mark):
            return named[1].lower()
        return "nobody" if _ENDS.search(mark) and self._spoke else self._role


def _without_edges(text: str) -> str:
    """Return the text without the marks of a sequence's beginning and end; ``<s>`` in pairs is somebody's HTML."""
    body = text.removeprefix("<s>")
    if "<s>" in body:
        return text
    if body is text:
        return text.partition("</s>")[0]
    return body.removesuffix("</s>") if body.endswith("</s>") or "</s>" not in body else text


def _role(piece: str) -> tuple[str, str]:
    found = _ROLE.match(piece)
    return (found[1].lower(), piece[found.end() :]) if found else ("assistant", piece)


# -- tool calls ----------------------------------------------------------------------

_TOOL_BLOCK = re.compile(
    r"(?<!`)<(/?)(tool_call|tool_calls|function_call|function_calls|tool_response|tool_code|tools|invoke"
    r"|function=[A-Za-z0-9_.-]{1,80})(?: [^<>\n]{0,200})?>|(?<!`)</(function)>|(?<!`)(\[TOOL_CALLS\])"
)


def _without_tool_calls(text: str) -> str:
    """Return what stands outside of tool calls; one that does not end ends with the text."""
    kept, place, inside = [], 0, ""
    for mark in _TOOL_BLOCK.finditer(text):
        if mark[4] and not inside:
            kept.append(text[place : mark.start()])
            return "".join(kept)
        name = "function" if mark[3] else (mark[2] or "").partition("=")[0]
        ends = bool(mark[1] or mark[3])
        if not inside and not ends:
            kept.append(text[place : mark.start()])
            inside = name
        elif inside and ends and name == inside:
            inside = ""
            place = mark.end()
        elif not inside:
            kept.append(text[place : mark.start()])
            place = mark.end()
    if not place and not inside:
        return text
    return ("".join(kept) + ("" if inside else text[place:])).strip()


_REPR = re.compile(
    r"\[?(?:ChatCompletion[A-Za-z]{0,40}|ToolCall|FunctionCall|Function)\(|\[\{'(?:id|type|function|name|index)': "
)
_CALL_KEYS = ({"name", "arguments"}, {"name", "parameters"}, {"tool_calls"}, {"function_call"}, {"tool", "tool_input"})


def _without_data(text: str) -> str:
    """Return ``""`` where the whole text is a tool call written as data, else the text.

    Where it is an agent's answer in JSON, the answer.
    """
    if _REPR.match(text) and ("arguments" in text or "tool_calls" in text):
        return ""
    body = text
    if text.startswith("```") and text.endswith("```"):
        body = text[3:-3].partition("\n")[2].strip()
    if not body.startswith(("{", "[")) or not body.endswith(("}", "]")):
        return text
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return text
    first = content[0] if isinstance(content, list) and content else content
    return _of_data(first, text) if isinstance(first, dict) else text


def _of_data(data: dict[str, Any], text: str) -> str:
    answer = data.get("action_input")
    if str(data.get("action", "")).lower() == "final answer" and isinstance(answer, str):
        return answer
    function = data.get("function")
    if data.get("type") == "function" and isinstance(function, dict | str):
        return ""
    if {"action", "action_input"} <= data.keys() or any(keys <= data.keys() for keys in _CALL_KEYS):
        return ""
    return text


# -- an agent's scaffolding ----------------------------------------------------------

_STEP = re.compile(
    r"^[ \t]*(?:\*\*|#{1,4} )?(Thought|Action Input|Action|Observation|Final Answer|Pensamento|Ação|Entrada da Ação"
    r"|Observação|Resposta Final|Begin!|Question):?(?:\*\*)?:?[ \t]*",
    re.MULTILINE,
)
_OPENING = frozenset({"Thought", "Final Answer", "Pensamento", "Resposta Final"})
_FINAL = frozenset({"Final Answer", "Resposta Final"})
_THINKING = frozenset({"Thought", "Pensamento"})


def _final_answer(text: str) -> str:
    """Return the final answer of a text in the form of an agent's steps; other texts as they are.

    Without one it is what stands behind the last thought, where no action follows it.
    """
    steps = list(_STEP.finditer(text))
    named = [step for step in steps if ":" in step[0]]
    if named and "Action Input" in {step[1] for step in named} and named[0][1] == "Action":
        return ""
    if not named or named[0][1] not in _OPENING or not _begins(text, named[0], named):
        return text
    ends = [step.start() for step in named[1:]] + [len(text)]
    finals = [(step, end) for step, end in zip(named, ends, strict=True) if step[1] in _FINAL]
    if finals:
        step, end = finals[-1]
        return text[step.end() : end].strip()
    if any(step[1] not in _THINKING for step in named):
        return ""
    thought, _, rest = text[named[-1].end() :].partition("\n")
    return rest.strip() or thought.strip()


def _begins(text: str, first: re.Match[str], named: list[re.Match[str]]) -> bool:
    """Return whether it is scaffolding: it stands at the beginning, or more of it follows."""
    return not text[: first.start()].strip() or (len({step[1] for step in named}) > 1 and first[1] in _THINKING)


# -- words of roles ------------------------------------------------------------------

_LED = re.compile(
    r"(?:(?:#{1,4} ?|\*\*)?(?:Assistant|ASSISTANT|assistant|Assistente|AI|Chatbot)(?:\*\*)?:(?:\*\*)?\s*"
    r"|#{1,4} ?(?:Response|Resposta|Answer):?\s*\n|(?:assistant|model)[ \t]*\n)"
)
_NEXT = re.compile(
    r"\n[ \t]*(?:#{1,4} ?|\*\*)?(?:User|USER|Human|Usuário|Cliente|Instruction|Input)(?:\*\*)?:", re.IGNORECASE
)
_LEAKED = re.compile(r"\n[ \t]*(?:#{1,4} ?)?(?:Human|### Instruction|### Input|### User)(?:\*\*)?:")


def _without_role(text: str) -> str:
    """Return the text without the name of the role before it, and without the turns invented behind it."""
    led = _LED.match(text)
    said = text[led.end() :] if led else text
    following = (_NEXT if led else _LEAKED).search(said)
    return said[: following.start()] if following else said


# -- answers that were cut off -------------------------------------------------------

_END = re.compile(r"(?:(?<!\d)\.|(?<=\d)(?<!^\d)(?<!\n\d)(?<!\n\d\d)\.|[!?…])[\"”’)*_»]{0,3}(?=\s|$)")


#: What an answer that was cut off ends with, and what is left of that without it.
_MARK_IN_CODE, _END_OF_CODE = "\n…\n```", "\n```"
_MARK = "…"


def without_mark(text: str) -> str:
    """Return an answer without the mark that it was cut off: a model would take that for its own way to end."""
    if text.endswith(_MARK_IN_CODE):
        return text.removesuffix(_MARK_IN_CODE) + _END_OF_CODE
    return _without_ellipses(text) if text.endswith(_MARK) else text


def _without_ellipses(text: str) -> str:
    return text.rstrip(" \n\t\u00a0" + _MARK)


def _whole_sentences(text: str) -> str:
    """Return the text up to the end of its last sentence, and one ellipsis."""
    fence = text.count("```") % 2
    body = text.rpartition("[[")[0] if text.rfind("[[") > text.rfind("]]") else text
    ends = [match.end() for match in _END.finditer(body)]
    if fence:
        lines = body.rpartition("\n")[0].rstrip()
        return lines + _MARK_IN_CODE if lines else ""
    if ends:
        body = body[: ends[-1]]
    elif " " in body[-200:].strip():
        body = body.rstrip()[: body.rstrip().rfind(" ")]
    body = body.rstrip()
    said = _without_ellipses(body)
    space = " " if ends and said == body else ""
    return f"{said}{space}{_MARK}" if said else ""
