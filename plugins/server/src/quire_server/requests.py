"""What clients may send, field by field. Unknown fields are refused: a misspelt one would change nothing, silently.

Field names and meanings are OpenAI's; those beyond it are vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is given up at its first wrong item: pydantic else describes each of a million, for seconds."""

PromptField = str | Many[str] | Many[int] | Many[Many[int]]

MAX_BIASES = 1024  # OpenAI takes 300; who wants to shut out more tokens has allowed_token_ids
MAX_STOP_TOKENS = 1024
MAX_ALLOWED_TOKENS = 2**18  # the largest vocabularies that there are

SAMPLING_FIELDS = (
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "priority",
    "n",
)
"""Fields of a request that go to `SamplingParams` under the same name."""


MAX_FIELDS = 1000  # of one object; no body has a tenth of it


class Body(BaseModel):
    """A JSON object; no type is converted into another."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_FIELDS:  # pydantic would describe every unknown one of a million
            raise ValueError(f"an object has {len(data)} fields, far more than there are; leave the unknown ones out")
        return data


class TimedBody(Body):
    """A request that may say how long it may take, in seconds."""

    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False  # OpenAI's padding against traffic analysis; there is none here


class SamplingFields(TimedBody):
    """What completions and chats have in common."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: Annotated[Many[int], Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_BIASES)] | None = None
    allowed_token_ids: Annotated[Many[int], Field(max_length=MAX_ALLOWED_TOKENS)] | None = None
    bad_words: Many[str] | None = None
    priority: int | None = None
    prompt_logprobs: int | None = None
    cache_salt: str | None = None
    add_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None  # taken and not used: there is no accounting by user
    metadata: dict[str, str] | None = None  # taken and not used
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given and stream is not true; leave it out, or set stream to true")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionRequest(SamplingFields):
    """Body of /v1/completions."""

    prompt: PromptField
    echo: bool = False
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None


class Message(BaseModel):
    """One turn of a conversation. Fields beyond OpenAI's go to the chat template as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | Many[dict[str, Any]] | None = None


class TemplateFields(Body):
    """How a conversation becomes a prompt."""

    messages: Many[Message] = Field(min_length=1)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_ending(self) -> Self:
        if (
            self.continue_final_message
            and "add_generation_prompt" in self.model_fields_set
            and self.add_generation_prompt
        ):
            raise ValueError(
                "continue_final_message and add_generation_prompt exclude each other; set one of them only"
            )
        return self


class ChatRequest(TemplateFields, SamplingFields):
    """Body of /v1/chat/completions."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool = False
    reasoning_effort: str | None = None  # goes to the chat template
    tools: Many[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Many[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: Many[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given and logprobs is not true; set logprobs to true")
        return self


class TokenizeRequest(Body):
    """Body of /tokenize: a text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Many[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Body):
    """Body of /detokenize."""

    model: str | None = None
    tokens: Many[int]
    skip_special_tokens: bool = False


class EmbeddingRequest(TimedBody):
    """Body of /v1/embeddings. `normalize` false gives the hidden state as it is, not brought to length 1;
    `truncate_prompt_tokens` keeps so many of a text's last tokens, -1 as many as the context holds."""

    model: str | None = None
    input: PromptField
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    pooling: Literal["last", "mean"] = "last"
    normalize: bool = True
    user: str | None = None


class ScoreRequest(TimedBody):
    """Body of /score: how likely is each of `text_2` after `text_1`; one of `text_1` may serve all of `text_2`."""

    model: str | None = None
    text_1: str | Many[str]
    text_2: str | Many[str]


class LoraRequest(Body):
    """Body of /admin/loras."""

    name: str
    path: str


class ResponsesRequest(TimedBody):
    """Body of /v1/responses."""

    model: str | None = None
    input: str | Many[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stream: bool | None = None
    store: bool = True
    background: bool = False
    metadata: dict[str, str] | None = None
    text: dict[str, Any] | None = None
    tools: Many[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    truncation: str | None = None
    reasoning: dict[str, Any] | None = None
    include: Many[str] | None = None
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
