r"""From a problem to the text that the model continues: the published templates, or the tokenizer's own.

The templates are those of the Qwen2.5-Math harness and the DFT repository's copy of it (evaluation/utils.py,
PROMPT_TEMPLATES, MIT), character for character, blanks at the ends removed as there, without worked examples.
`kpmath` is left out, which fails there, and so is what runs the model's code (pal, tora, tool-integrated).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verl_ext.data.conversation import ConversationRenderer
from verl_ext.data.instructions import PROOF
from verl_ext.data.instructions import QWEN_BOXED as BOXED
from verl_ext.data.messages import ConversationError, text_messages
from verl_ext.errors import ConfigError, DataError, nearest
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.code_prompts import CODE_PROMPT_TYPES, acereason_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
TURN_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")
"""Where the harness ends every response. What the tokenizer knows as one token stops as a token, the rest as text."""


@dataclass(frozen=True)
class PromptType:
    """A template around the problem, and what ends a response besides `TURN_ENDS`."""

    before: str
    after: str
    stop: tuple[str, ...] = ()

    def text(self, question: str) -> str:
        return f"{self.before}{question}{self.after}".strip(" ")


def _qwen_chat(system: str, after_question: str = "") -> PromptType:
    return PromptType(
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
        f"{after_question}<|im_end|>\n<|im_start|>assistant\n",
    )


def _llama_chat(end_of_turn: str) -> PromptType:
    return PromptType(
        f"<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.{end_of_turn}\n"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        f"\n{BOXED}{end_of_turn}\n<|start_header_id|>assistant<|end_header_id|>\n\n",
    )


PROMPT_TYPES: dict[str, PromptType] = {
    "qwen-boxed": _qwen_chat("You are a helpful assistant.", f"\n{BOXED}"),
    "qwen25-math-cot": _qwen_chat(BOXED),
    "qwen25-math-cot-raft": _qwen_chat(BOXED),
    "llama-base-boxed": _llama_chat("<|end_of_text|>"),
    "llama-ins-boxed": _llama_chat("<|eot_id|>"),
    "deepseek-math": PromptType("User: ", f"\n{BOXED}\n\nAssistant:"),
    "mathstral": PromptType("", f"\n{BOXED}"),
    "numina": PromptType("### Problem: ", "\n### Solution:", ("\n### Problem",)),
    "direct": PromptType("Question: ", "\nAnswer: "),
    "cot": PromptType("Question: ", "\nAnswer: ", ("\n\nQuestion:",)),
    "self-instruct": PromptType("<|user|>\n", "\n<|assistant|>\n"),
    "wizard_zs": PromptType(
        "### Instruction:\n", "\n\n### Response: Let's think step by step.", ("Instruction", "Response")
    ),
    "platypus_fs": PromptType(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n### Instruction:\n",
        "\n\n### Response:\n\n\n### Response:\n",
        ("Instruction", "Response"),
    ),
    "jiuzhang": PromptType("## Question\n", "\n\n## Solution\n", ("\n\n## Question",)),
    "jiuzhang_nl": PromptType("## Question\n", "\n\n## Natural Language Solution\n", ("\n\n## Question",)),
    "mmiqc": PromptType(
        'Please solve the following problem and put your answer at the end with "The answer is: ".\n\n', "\n\n"
    ),
    "abel": PromptType("Question:\n", "\nAnswer:\nLet's think step by step.\n"),
    "shepherd": PromptType("", "\n"),
    "internlm-math-fs": PromptType("Question:", "\nAnswer:"),
    "internlm-math-chat": PromptType("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "mistral": PromptType("[INST] ", "[/INST]"),
}


def require_prompt_type(name: str) -> None:
    """Raises:
    ConfigError: there is no such prompt type; it lists those that are.
    """
    known = (CHAT, *PROMPT_TYPES, *CODE_PROMPT_TYPES)
    if name not in known:
        close = nearest(name, known)
        hint = f"(did you mean {close!r}?) " if close else ""
        raise ConfigError("prompt_type", given=name, expected=f"{hint}one of {', '.join(known)}")


@dataclass(frozen=True)
class Prompt:
    """What the model is asked."""

    text: str
    token_ids: tuple[int, ...] | None
    """The text as this tokenizer reads it, with its beginning of text where the template does not write it itself; None
    without a tokenizer."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The chat, where there is one: for an endpoint that renders it itself."""


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How problems become prompts; only `chat` looks at more than the type."""

    prompt_type: str
    system_prompt: str | None = None
    """A system message of one's own, which may be empty; None leaves it to the template."""
    instruction: str = "\n" + BOXED
    """Put behind a problem; not behind a prompt that the data brings itself. For programs, this default is AceReason's
    instruction instead, and for proofs QED-Nano's, which stands before the problem."""
    thinking: bool | None = None
    """Handed to the template as `enable_thinking`; None leaves it to the template."""

    def __post_init__(self) -> None:
        require_prompt_type(self.prompt_type)
        if self.prompt_type != CHAT:
            for name in ("system_prompt", "thinking"):
                if getattr(self, name) is not None:
                    raise ConfigError(name, given=getattr(self, name), expected=f"nothing, or prompt_type={CHAT}")


@dataclass
class PromptBuilder:
    """Renders problems with one tokenizer, or without one for an endpoint that renders and reads them itself.

    Raises:
        ConfigError: `chat`, and the tokenizer has no chat template, or none that knows thinking.
    """

    options: PromptOptions
    tokenizer: PreTrainedTokenizerBase | None
    stop: tuple[str, ...] = field(init=False)
    """Texts that end a response."""
    stop_token_ids: tuple[int, ...] = field(init=False)
    """Tokens that end a response, besides the model's own."""

    def __post_init__(self) -> None:
        vocabulary = {}
        if self.tokenizer is not None:
            self._check_template(self.tokenizer.chat_template)
            vocabulary = self.tokenizer.get_added_vocab()
        self.stop_token_ids = tuple(vocabulary[text] for text in TURN_ENDS if text in vocabulary)
        kind = {**PROMPT_TYPES, **CODE_PROMPT_TYPES}.get(self.options.prompt_type)
        own = () if kind is None else kind.stop
        self.stop = (*(text for text in TURN_ENDS if text not in vocabulary), *own)

    def _check_template(self, template: object) -> None:
        kind = CODE_PROMPT_TYPES.get(self.options.prompt_type)
        is_chat = self.options.prompt_type == CHAT or kind is not None and kind.system is not None
        if is_chat and not template:
            given = self.options.prompt_type
            raise ConfigError("prompt_type", given=given, expected="another one: the tokenizer has no chat template")
        if self.options.thinking is not None and "enable_thinking" not in str(template):
            raise ConfigError(
                "thinking", given=self.options.thinking, expected="null: the chat template has no such switch"
            )

    def build(self, problem: Problem, *, around: Callable[[str], str] | None = None) -> Prompt:
        """The prompt of a problem.

        Args:
            problem: what is asked.
            around: puts more around what the user says; None for nothing.

        Raises:
            DataError: the chat template refuses the problem's own messages.
        """
        self._require_fit(problem)
        code_type = CODE_PROMPT_TYPES.get(self.options.prompt_type)
        if code_type is not None and code_type.system is None:
            question = code_type.question(problem)
            text = code_type.before + (around(question) if around else question) + code_type.after
            return Prompt(text, self._read(text, add_special_tokens=True))
        if self.options.prompt_type in PROMPT_TYPES:
            question = around(problem.question) if around else problem.question
            text = PROMPT_TYPES[self.options.prompt_type].text(question)
            return Prompt(text, self._read(text, add_special_tokens=True))
        try:
            messages = self._messages(problem)
        except ConversationError as error:
            raise DataError(f"{problem.name}: {error}") from error
        if around:
            last = messages[-1]
            messages = [*messages[:-1], {**last, "content": around(last["content"])}]
        return self._chat(messages, problem.name)

    def build_text(self, content: str) -> Prompt:
        """The prompt of a user's message that is no problem, without an instruction."""
        if self.options.prompt_type in PROMPT_TYPES:
            text = PROMPT_TYPES[self.options.prompt_type].text(content)
            return Prompt(text, self._read(text, add_special_tokens=True))
        return self._chat([{"role": "user", "content": content}], "a summary's prompt")

    def _chat(self, messages: Sequence[Mapping[str, str]], name: str) -> Prompt:
        if self.tokenizer is None:
            text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            return Prompt(text, None, tuple(messages))
        try:
            text = ConversationRenderer(self.tokenizer, self.template_arguments()).prompt(messages)
        except ConversationError as error:
            raise DataError(f"{name}: {error}") from error
        return Prompt(text, self._read(text, add_special_tokens=False), tuple(messages))

    @property
    def completes(self) -> bool:
        """Whether prompt and response together are the program."""
        kind = CODE_PROMPT_TYPES.get(self.options.prompt_type)
        return kind is not None and kind.completes

    def _require_fit(self, problem: Problem) -> None:
        """Raises:
        ConfigError: the prompt type asks for another kind of answer than the problem has.
        """
        given = self.options.prompt_type
        if problem.is_code and given in PROMPT_TYPES:
            known = ", ".join((CHAT, *CODE_PROMPT_TYPES))
            raise ConfigError("prompt_type", given=given, expected=f"one of {known} for {problem.benchmark}")
        if not problem.is_code and given in CODE_PROMPT_TYPES:
            raise ConfigError("prompt_type", given=given, expected=f"one without code for {problem.benchmark}")
        if self.completes and not problem.completes:
            raise ConfigError("prompt_type", given=given, expected=f"another one: {problem.name} begins no program")

    def _read(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...] | None:
        if self.tokenizer is None:
            return None
        return tuple(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is called with besides the messages."""
        return {} if self.options.thinking is None else {"enable_thinking": self.options.thinking}

    def _messages(self, problem: Problem) -> list[Mapping[str, str]]:
        code_type = CODE_PROMPT_TYPES.get(self.options.prompt_type)
        if code_type is not None:
            system = {"role": "system", "content": code_type.system}
            return text_messages([system, {"role": "user", "content": code_type.question(problem)}])
        content = problem.question + self.options.instruction
        if problem.is_code and self.options.instruction == PromptOptions.instruction:
            content = acereason_question(problem)
        if problem.asks_for_proof and self.options.instruction == PromptOptions.instruction:
            content = PROOF + problem.question
        asked = {"role": "user", "content": content}
        messages = text_messages(problem.messages or [asked])
        if self.options.system_prompt is None:
            return messages
        rest = [message for message in messages if message["role"] != "system"]
        return [{"role": "system", "content": self.options.system_prompt}, *rest]
