"""What a model says, cleaned: a corpus of answers as real servers have given them, and near misses."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.agent.spoken import LONGEST, clean

OI = "Olá! Abrimos às 8h."

LEAKED = {
    # thoughts
    "think": (f"<think>O cliente quer o horário.</think>\n\n{OI}", OI),
    "think, empty": (f"<think>\n\n</think>\n\n{OI}", OI),
    "think, capitals": (f"<THINK>hm</THINK>{OI}", OI),
    "think, never closed": ("<think>O cliente quer o horário. Vou responder que", ""),
    "think, never closed, after words": (f"{OI}\n<think>será que", OI),
    "think, only the end": (f"O cliente quer o horário.\n</think>\n\n{OI}", OI),
    "think, nested": (f"<think>a <think>b</think> c</think>{OI}", OI),
    "think, twice": ("<think>a</think>Olá! <think>b</think>Abrimos às 8h.", OI),
    "thinking": (f"<thinking>Preciso ser gentil.</thinking>{OI}", OI),
    "reasoning": (f"<reasoning>Passo 1.</reasoning>\n{OI}", OI),
    "reflection": (f"<thinking>x</thinking><reflection>y</reflection><output>{OI}</output>", OI),
    "scratchpad": (f"<scratchpad>conta: 2+2</scratchpad>{OI}", OI),
    "think and answer": (f"<think>x</think><answer>{OI}</answer>", OI),
    "Magistral": (f"[THINK]O cliente…[/THINK]{OI}", OI),
    "Kimi": (f"◁think▷hm◁/think▷{OI}", OI),
    "OpenThinker": (
        f"<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>{OI}<|end_of_solution|>", OI
    ),
    "think around a tool call": ('<think>vou buscar</think><tool_call>{"name": "preco"}</tool_call>', ""),
    # Harmony
    "Harmony": (
        f"<|channel|>analysis<|message|>Hours.<|end|><|start|>assistant<|channel|>final<|message|>{OI}<|return|>",
        OI,
    ),
    "Harmony, only the final": (f"<|channel|>final<|message|>{OI}", OI),
    "Harmony, only analysis": ("<|channel|>analysis<|message|>User asks for hours. We should", ""),
    "Harmony, start first": (f"<|start|>assistant<|channel|>final<|message|>{OI}<|end|>", OI),
    "Harmony, commentary": (
        '<|channel|>commentary to=functions.preco <|constrain|>json<|message|>{"produto":"bolo"}<|call|>', ""
    ),
    "Harmony, tokens lost": (f"analysisUser asks for opening hours. Answer briefly.assistantfinal{OI}", OI),
    # chat templates
    "ChatML, end": (f"{OI}<|im_end|>", OI),
    "ChatML, whole": (f"<|im_start|>assistant\n{OI}<|im_end|>", OI),
    "ChatML, goes on as the person": (f"{OI}<|im_end|>\n<|im_start|>user\nE no domingo?<|im_end|>", OI),
    "ChatML, no end before the next": (f"{OI}\n<|im_start|>user\nE no domingo?", OI),
    "Llama 3": (f"<|start_header_id|>assistant<|end_header_id|>\n\n{OI}<|eot_id|>", OI),
    "Llama 3, begin": (f"<|begin_of_text|>{OI}<|end_of_text|>", OI),
    "Llama 3, python tag": ('<|python_tag|>{"name": "preco", "parameters": {}}', ""),
    "Gemma": (f"<start_of_turn>model\n{OI}<end_of_turn>", OI),
    "Gemma, goes on": (f"{OI}<end_of_turn>\n<start_of_turn>user\nobrigado", OI),
    "Phi": (f"<|assistant|>{OI}<|end|><|user|>obrigado", OI),
    "Llama 2": (f"[/INST] {OI} </s>", OI),
    "Llama 2, goes on": (f"{OI}</s>[INST] e domingo? [/INST] Fechado.", OI),
    "Mistral": (f"<s>{OI}</s>", OI),
    "DeepSeek": (f"<｜Assistant｜>{OI}<｜end▁of▁sentence｜>", OI),
    "GPT-2's end": (f"{OI}<|endoftext|>Human: outra coisa", OI),
    "end token first": (f"<|im_end|>\n{OI}", OI),
    # tool calls
    "Hermes": ('<tool_call>\n{"name": "preco", "arguments": {"produto": "bolo"}}\n</tool_call>', ""),
    "Hermes, after words": (f'{OI}\n<tool_call>{{"name": "preco", "arguments": {{}}}}</tool_call>', OI),
    "Hermes, never closed": (f'{OI}\n<tool_call>\n{{"name": "pre', OI),
    "Hermes, with its response": (f"<tool_call>{{}}</tool_call><tool_response>R$ 10</tool_response>{OI}", OI),
    "Mistral's calls": ('[TOOL_CALLS][{"name": "preco", "arguments": {"produto": "bolo"}}]', ""),
    "Llama's function": ('<function=preco>{"produto": "bolo"}</function>', ""),
    "Kimi's calls": ("Um momento.<|tool_calls_section_begin|><|tool_call_begin|>functions.preco:0", "Um momento."),
    "DeepSeek's calls": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>preco", ""),
    "JSON": ('{"name": "preco", "arguments": {"produto": "bolo"}}', ""),
    "JSON, parameters": ('{"name": "preco", "parameters": {"produto": "bolo"}}', ""),
    "JSON, in a list": ('[{"name": "preco", "arguments": {}}]', ""),
    "JSON, fenced": ('```json\n{"name": "preco", "arguments": {"produto": "bolo"}}\n```', ""),
    "JSON, OpenAI's": ('{"type": "function", "function": {"name": "preco", "arguments": "{}"}}', ""),
    "JSON, tool_calls": ('{"tool_calls": [{"id": "call_1"}]}', ""),
    "JSON, an agent's action": ('{"action": "preco", "action_input": {"produto": "bolo"}}', ""),
    "JSON, an agent's answer": ('{"action": "Final Answer", "action_input": "Olá! Abrimos às 8h."}', OI),
    "a repr of tool_calls": (
        "[ChatCompletionMessageFunctionToolCall(id='1', function=Function(arguments='{}', name='preco'))]",
        "",
    ),
    "a repr of dicts": ("[{'id': 'call_1', 'function': {'arguments': '{}', 'name': 'preco'}, 'type': 'function'}]", ""),
    "a repr of a message": ("ChatCompletionMessage(content=None, tool_calls=[ToolCall(id='1')])", ""),
    # an agent's scaffolding
    "ReAct": (f"Thought: I now know the final answer\nFinal Answer: {OI}", OI),
    "ReAct, whole": (
        f"Thought: o horário?\nAction: hora\nAction Input: {{}}\nObservation: 8h\nThought: pronto\nFinal Answer: {OI}",
        OI,
    ),
    "ReAct, answer on the next line": (f"Thought: I can answer.\n\nFinal Answer:\n{OI}", OI),
    "ReAct, answer only": (f"Final Answer: {OI}", OI),
    "ReAct, bold": (f"**Thought:** fácil\n**Final Answer:** {OI}", OI),
    "ReAct, goes on": (f"Final Answer: {OI}\n\nObservation: nada", OI),
    "ReAct, no answer": ('Thought: preciso do preço\nAction: preco\nAction Input: {"produto": "bolo"}', ""),
    "ReAct, only an action": ('Action: preco\nAction Input: {"produto": "bolo"}', ""),
    "ReAct, thought then words": (f"Thought: o cliente quer o horário\n{OI}", OI),
    "ReAct, translated": (f"Pensamento: já sei\nResposta Final: {OI}", OI),
    # words of roles
    "role": (f"Assistant: {OI}", OI),
    "role, Portuguese": (f"Assistente: {OI}", OI),
    "role, bold": (f"**Assistant:** {OI}", OI),
    "role, on its line": (f"assistant\n{OI}", OI),
    "role, and an invented person": (f"Assistant: {OI}\nUser: e domingo?\nAssistant: fechado", OI),
    "role, Alpaca": (f"### Response:\n{OI}", OI),
    "role, Alpaca goes on": (f"{OI}\n\n### Instruction:\nOutra pergunta", OI),
    "role, Claude's": (f"{OI}\n\nHuman: obrigado", OI),
    # what libraries say
    "CrewAI": ("Agent completed execution but produced no final output.", ""),
    "control characters": ("Olá!\x00 Abrimos\x07 às 8h.", OI),
    "half a pair": ("Olá! \ud83d Abrimos", "Olá! \ufffd Abrimos"),
    "nothing": (" \n\t ", ""),
}  # fmt: skip

UNTOUCHED = [
    "Te amo <3",
    "Se a < b e b < c, então a < c.",
    "x <y> z",
    "Final: o total é R$ 10.",
    "O resultado final é: 42",
    "Observação: fechamos às 18h.",
    "Ação: clique em Entrar.\nDepois: confirme.",
    "Penso, logo existo. Thought: é inglês.",
    "Use `<think>` no modelo e `<|im_end|>` no fim.",
    "Escreva `<tool_call>` entre crases.",
    "```python\nif a < b:\n    print('<b>')\n```",
    '```json\n{"nome": "Ana", "idade": 30}\n```',
    '{"nome": "Ana"}',
    "[1, 2, 3]",
    "[[Preços | Veja a tabela]]\n[[Entrega]]",
    "De <s>R$ 10</s> por R$ 8",
    "<s>R$ 10</s> agora R$ 8",
    "Usuário: ana\nSenha: a que você criou",
    "Login\nUser: ana\nPassword: ***",
    "Nome: Ana\nRole: assistant",
    "Pergunta: qual o horário?\nResposta: 8h.",
    "A assistente social atende às 9h.",
    "Model 3 ou Model Y?",
    "1. Abra o app\n2. Toque em **Pix**\n3. Pronto!",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "E-mail: ana@exemplo.com <ana@exemplo.com>",
    "Isso é (a) ou [b] {c} |d|",
    "thinking fora da caixa é bom: pense, <ok>?",
    "analysis: o relatório está pronto.",
    "name: bolo\narguments: nenhum",
    "😀👍🏽 kkkk",
]

CUT = {
    "Abrimos às 8h. Fechamos às 18h. No domingo a gente": "Abrimos às 8h. Fechamos às 18h. …",
    "Abrimos às 8h. Fechamos às 18h.": "Abrimos às 8h. Fechamos às 18h. …",
    "Custa R$ 1.234,56 e o frete sai por": "Custa R$ 1.234,56 e o frete sai…",
    "Pronto! Escolha:\n1. Pix\n2. Cart": "Pronto! …",
    "Abra o app.\n1. Toque em Pix\n2. Digite": "Abra o app. …",
    "Custa R$ 10. Posso mand": "Custa R$ 10. …",
    "Claro! [[Preços]]\n[[Entr": "Claro! …",
    "Veja:\n```python\nprint(1)\nprint": "Veja:\n```python\nprint(1)\n…\n```",
    "Palavra": "Palavra…",
    "Não sei… … e depois": "Não sei…",
    "Bem… vou ver": "Bem…",
    "Bem ...…  … e": "Bem ...…",
    "Palavra …": "Palavra…",
    "…": "",
    "[[Entr": "",
    "<think>Estou pensando. Muito": "",
}


@pytest.mark.parametrize("name", LEAKED)
def test_what_is_not_meant_for_people_is_taken_away(name):
    said, read = LEAKED[name]
    assert clean(said) == read


def test_the_corpus_is_large():
    assert len(LEAKED) >= 60


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_only_looks_like_it_stays(text):
    assert clean(text) == text


@pytest.mark.parametrize("text", CUT)
def test_what_was_cut_off_ends_with_a_sentence(text):
    assert clean(text, cut=True) == CUT[text]


@given(st.lists(st.sampled_from(["olá", "Olá.", "…", " ", "...", "!", "\n", "[["]), max_size=12).map("".join))
def test_an_answer_that_was_cut_off_has_one_mark_at_its_end(text):
    said = clean(text, cut=True)
    assert said != "…"
    assert not re.search(r"…\s*…$", said)
    assert bool(said) == said.endswith("…")


ODD = ["<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "[INST]", "</s>", "<s>",
       "<tool_call>", "</tool_call>", "<function=a>", "Thought:", "Final Answer:", "\nUser:", "Assistant:", "```", "[[",
       "{", "}", "[", "]", "\n", " ", "\t", "<", "|", "`", "final", "user", "olá. ", "…", "\ud83d", "1."]  # fmt: skip


@given(st.lists(st.sampled_from(ODD), max_size=60).map("".join), st.booleans())
def test_whatever_a_model_says_it_is_text_and_cleaning_ends(text, cut):
    said = clean(text, cut=cut)
    assert said == said.strip()
    said.encode()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", [*ODD, "<think", "<|a", "\n \n", "Thought: a\n", "``` \n", "<function=", "<tool_call a"]
)
def test_the_work_grows_with_the_length(piece):
    """Counted in lines of ours; a pattern that backtracks takes minutes, which the suite's own limit ends."""
    text = (piece * (LONGEST // len(piece) + 1))[:LONGEST]
    lines = 0

    def count(*_):
        nonlocal lines
        lines += 1
        return count

    sys.settrace(count)
    try:
        clean(text, cut=True)
    finally:
        sys.settrace(None)
    assert lines < 40 * LONGEST
