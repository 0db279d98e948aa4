"""One loaded model serving many requests: scheduler, samplers and text come together here. No socket, no process."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from rpcmesh.engine.chat import ChatError, ChatTemplate
from rpcmesh.engine.constraint import matcher
from rpcmesh.engine.embedding import Embedding
from rpcmesh.engine.gbnf import GrammarError
from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.llama import DecodeError, LoadError, Runtime, Sampler
from rpcmesh.engine.messages import (
    ChatPrompt,
    Delta,
    Embedded,
    EmbedRequest,
    Failure,
    FailureCode,
    FinishReason,
    GenerateRequest,
    LoadedModel,
    LoadSpec,
    Prompt,
    Restored,
    Sampling,
    Saved,
    Score,
    Scored,
    Step,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from rpcmesh.engine.placement import read_placement
from rpcmesh.engine.saving import Saving
from rpcmesh.engine.scheduler import Batch, Placement, Sampled, Scheduler
from rpcmesh.engine.snapshots import PrefillWatch
from rpcmesh.engine.text import TextAssembler

# The gateway's limits come long before this; it keeps a runaway owner from filling the engine's memory.
WAITING_MAX = 1024


class _Refused(Exception):  # noqa: N818
    """A request that cannot be served."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message


@dataclass(slots=True)
class _Completion:
    sampler: Sampler
    text: TextAssembler
    n_prompt: int
    n_completion: int
    n_cached: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.n_prompt, self.n_completion, self.n_cached)


class Serving:
    """Answers requests from one model. Raises :class:`LoadError` when it cannot be loaded.

    ``hand_over`` gives the owner a file with what is saved of a request, ``on_line`` a line for the log.
    """

    def __init__(
        self,
        spec: LoadSpec,
        log: Log,
        on_progress: Callable[[float], bool],
        hand_over: Callable[[str, int], None],
        on_line: Callable[[str], None],
    ) -> None:
        started = time.monotonic()
        self._runtime = Runtime(spec, log, on_progress)
        self._vocabulary = self._runtime.vocabulary
        self._scheduler = Scheduler(self._runtime.limits, self._vocabulary.eog)
        self._embedding = Embedding(self._runtime.limits, self._runtime.embed)
        self._saving = Saving(spec, self._runtime.cells, self._runtime.n_params, hand_over, on_line)
        self._prefills = PrefillWatch()
        self._open: dict[str, _Completion] = {}
        self._template = self._compile_template()
        load_s = time.monotonic() - started
        self.model = LoadedModel(
            name=spec.model_name,
            n_layer=self._runtime.n_layer,
            n_ctx=self._runtime.limits.n_ctx,
            n_vocab=self._vocabulary.n_tokens,
            n_params=self._runtime.n_params,
            size_bytes=self._runtime.size_bytes,
            has_chat_template=self._vocabulary.chat_template is not None,
            placement=read_placement(log.load_lines, self._runtime.devices, self._runtime.n_layer),
            load_s=load_s,
            first_token_ms=self._first_token_ms(),
            embeds=self._runtime.embeds,
        )

    @property
    def idle(self) -> bool:
        return self._scheduler.idle and self._embedding.idle

    def submit(self, request: GenerateRequest, file: int | None = None) -> Step | Failure | None:
        """Queue a request. Answers at once when it cannot be served, or when nothing is left to generate.

        ``file`` holds what its snapshot speaks of; it stays the caller's.
        """
        try:
            self._require(embeds=False)
            return self._admit(request, file)
        except _Refused as refused:
            return Failure(request.id, refused.code, refused.message)

    def embed(self, request: EmbedRequest) -> Failure | None:
        """Queue texts. Answers at once when they cannot be served."""
        try:
            self._require(embeds=True)
            _require_room(self._embedding.n_waiting)
            inputs = [self._prompt_tokens(each) for each in request.inputs]
            for tokens in inputs:
                self._require_known(tokens)
        except _Refused as refused:
            return Failure(request.id, refused.code, refused.message)
        self._embedding.submit(request.id, inputs)
        return None

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is not known has just finished."""
        self._embedding.drop(request_id)
        if request_id in self._open:
            self._close(request_id)

    def stop_saving(self, request_id: str) -> None:
        """Nobody keeps the cells of this request any more."""
        if request_id in self._open:
            self._saving.stop(request_id)

    def score(self, score: Score) -> Scored | Failure:
        """Judge tokens that were chosen elsewhere. All KV cells are needed for it, so only while nobody is served."""
        try:
            self._require(embeds=False)
            if not self.idle:
                raise _Refused("overloaded", "tokens are scored only while no request is open")
            prompt = self._prompt_tokens(score.prompt)
            tokens = [*prompt, *score.token_ids]
            self._require_known(tokens)
            if len(tokens) > self._runtime.limits.n_ctx:
                raise _Refused("context_length_exceeded", f"{len(tokens)} tokens do not fit the context")
            self._forget(0)
            return Scored(score.id, tuple(self._runtime.margins(tokens, len(prompt))))
        except _Refused as refused:
            return Failure(score.id, refused.code, refused.message)
        except DecodeError as error:
            return Failure(score.id, "engine_error", error.message)

    def step(self) -> Iterator[Step | Embedded | Failure | Saved | Restored]:
        """Decode one batch, and put back or save at most a piece of one sequence. Not to be called while idle."""
        if not self._embedding.idle:
            yield from self._embedding.step()
            return
        for placement in self._scheduler.admit():
            self._place(placement)
        for slot in self._scheduler.evict():
            self._runtime.forget(slot)
        if (restored := self._saving.restore_next(self._scheduler.slot_of)) is not None:
            self._go_on(restored)
            yield restored
        batch = self._scheduler.next_batch()
        if not batch.chunks:
            return
        began = time.monotonic()
        try:
            places = self._runtime.decode(batch)
        except DecodeError as error:
            for chunk in batch.chunks:
                self._close(chunk.id)
                self._forget(chunk.slot)
                yield Failure(chunk.id, "engine_error", error.message)
            return
        outputs = zip(batch.outputs, places, strict=True)
        tokens = [self._open[output.id].sampler.sample(place) for output, place in outputs]
        self._note_prefill(batch, began)
        took_s = time.monotonic() - began
        told = [self._delta(sampled) for sampled in self._scheduler.commit(batch, tokens, took_s)]
        yield from (failure for failure in told if isinstance(failure, Failure))
        if deltas := tuple(delta for delta in told if isinstance(delta, Delta)):
            yield Step(deltas)
            # Only now is the batch known to be done: without logits it may still be under way.
            if (saved := self._saving.save_next(self._scheduler.cached())) is not None:
                yield saved

    def _place(self, placement: Placement) -> None:
        if self._runtime.place(placement):
            completion = self._open[placement.id]
            completion.n_cached = min(placement.n_reused, completion.n_prompt)
        else:
            self._scheduler.forgo(placement)

    def _forget(self, slot: int) -> None:
        self._scheduler.forget(slot)
        self._runtime.forget(slot)

    def _go_on(self, restored: Restored) -> None:
        slot = self._scheduler.slot_of(restored.id)
        if restored.n_tokens == 0 and slot is not None:
            self._runtime.forget(slot)
        self._scheduler.release(restored.id, restored.n_tokens)

    def _note_prefill(self, batch: Batch, began: float) -> None:
        n_prefill = sum(len(chunk.tokens) for chunk in batch.chunks if len(chunk.tokens) > 1)
        done = self._prefills.took(n_prefill=n_prefill, logits=bool(batch.outputs), began=began, ended=time.monotonic())
        if done is not None:
            self._saving.prefilled(*done)
            if batch.n_decoding == 0:
                self._scheduler.prefilled(*done)

    def _admit(self, request: GenerateRequest, file: int | None) -> Step | None:
        _require_room(self._scheduler.n_waiting)
        if request.id in self._open:
            raise _Refused("engine_error", f"request id {request.id!r} is in use")
        _check(request.sampling, self._vocabulary.n_tokens)
        prompt = self._prompt_tokens(request.prompt)
        resumed = list(request.resume_token_ids)
        tokens = prompt + resumed
        self._require_known(tokens)
        left = None if request.max_tokens is None else request.max_tokens - len(resumed)
        text = TextAssembler(request.sampling.stop)
        for token in resumed:
            text.push(self._vocabulary.piece(token))
        if resumed and len(tokens) >= self._runtime.limits.n_ctx and not text.stopped:
            # The engine before had room for more, or it would have ended the answer.
            message = f"the context is {self._runtime.limits.n_ctx} tokens now, and the answer has {len(tokens)}"
            raise _Refused("context_length_exceeded", message)
        if text.stopped or (left is not None and left < 1):
            reason: FinishReason = "stop" if text.stopped else "length"
            return Step((Delta(request.id, text.finish(), (), reason, Usage(len(prompt), len(resumed))),))
        sampler = self._sampler(request, tokens, len(resumed))
        held = (
            file is not None
            and request.snapshot is not None
            and self._saving.accept(request.id, request.snapshot, file, len(tokens))
        )
        self._scheduler.submit(request.id, tokens, left, held=held)
        self._open[request.id] = _Completion(
            sampler=sampler,
            text=text,
            n_prompt=len(prompt),
            n_completion=len(resumed),
        )
        return None

    def _require(self, *, embeds: bool) -> None:
        if self._runtime.embeds != embeds:
            does = "makes embeddings and does not generate text" if self._runtime.embeds else "makes no embeddings"
            raise _Refused("model_not_supported", f"the model {self.model.name!r} {does}")

    def _require_known(self, tokens: list[int]) -> None:
        unknown = next((token for token in tokens if not 0 <= token < self._vocabulary.n_tokens), None)
        if unknown is not None:
            raise _Refused("invalid_prompt", f"token {unknown} is not in the vocabulary of {self._vocabulary.n_tokens}")

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        match prompt:
            case ChatPrompt(messages):
                if isinstance(self._template, ChatError):
                    raise _Refused("invalid_prompt", self._template.message)
                try:
                    rendered = self._template.render(messages)
                except ChatError as error:
                    raise _Refused("invalid_prompt", error.message) from error
                self._require_short(rendered)
                tokens = self._vocabulary.tokenize_chat(rendered)
            case TextPrompt(text):
                self._require_short(text)
                tokens = self._vocabulary.tokenize(text, add_special=True)
            case TokenPrompt(token_ids):
                tokens = list(token_ids)
        if not tokens:
            raise _Refused("invalid_prompt", "the prompt is empty")
        if len(tokens) > self._n_prompt_max:
            raise self._too_long(str(len(tokens)))
        return tokens

    @property
    def _n_prompt_max(self) -> int:
        # The first token that is generated needs a place too.
        return self._runtime.limits.n_ctx - (not self._runtime.embeds)

    def _require_short(self, text: str) -> None:
        if self._vocabulary.exceeds(text, self._n_prompt_max):
            raise self._too_long("more")

    def _too_long(self, has: str) -> _Refused:
        limit = f"this model's maximum context length is {self._runtime.limits.n_ctx} tokens"
        return _Refused("context_length_exceeded", f"{limit}, but the prompt has {has}")

    def _sampler(self, request: GenerateRequest, tokens: list[int], n_sampled: int) -> Sampler:
        seed = request.sampling.seed
        try:
            return self._runtime.sampler(
                request.sampling,
                seed=secrets.randbits(32) if seed is None else seed,
                ignore_eos=request.ignore_eos,
                seen=tokens,
                n_sampled=n_sampled,
                matcher=None if request.constraint is None else matcher(request.constraint),
                top_logprobs=request.top_logprobs,
            )
        except GrammarError as error:
            raise _Refused("invalid_grammar", error.message) from error

    def _delta(self, sampled: Sampled) -> Delta | Failure:
        completion = self._open[sampled.id]
        fault, logprobs = completion.sampler.fault, completion.sampler.logprobs
        if fault is not None:
            self._close(sampled.id)
            return Failure(sampled.id, "invalid_grammar", fault)
        completion.n_completion += 1
        emitted = completion.text.push(self._vocabulary.piece(sampled.token))
        finish: FinishReason | None = "stop" if completion.text.stopped else sampled.finish
        if finish is None:
            return Delta(sampled.id, emitted, (sampled.token,), logprobs=logprobs)
        self._close(sampled.id)
        emitted += completion.text.finish()
        return Delta(sampled.id, emitted, (sampled.token,), finish, completion.usage, logprobs)

    def _close(self, request_id: str) -> None:
        """Free all that a request holds but its KV cells, which the next prompt may begin with."""
        self._open.pop(request_id).sampler.free()
        self._saving.forget(request_id)
        if (half_filled := self._scheduler.drop(request_id)) is not None:
            self._runtime.forget(half_filled)

    def _compile_template(self) -> ChatTemplate | ChatError:
        words = self._vocabulary
        try:
            return ChatTemplate(words.chat_template, bos=words.bos_text, eos=words.eos_text, strftime_now=_strftime_now)
        except ChatError as error:
            # Text prompts need no template, so the model is of use without it.
            return error

    def _first_token_ms(self) -> float:
        """Ready means that a real token came back: this one also faults in the weights and builds the graphs."""
        started = time.monotonic()
        prompt = TokenPrompt((next(iter(self._vocabulary.eog), 0),))
        if self._runtime.embeds:
            self._embedding.submit("warm-up", [list(prompt.token_ids)])
        else:
            self._admit(GenerateRequest("warm-up", prompt, max_tokens=1, sampling=Sampling(temperature=0)), None)
        for event in self.step():
            if isinstance(event, Failure):
                raise LoadError(f"the model loads but does not answer: {event.message}")
        return (time.monotonic() - started) * 1000


def _require_room(n_waiting: int) -> None:
    if n_waiting >= WAITING_MAX:
        raise _Refused("overloaded", f"{WAITING_MAX} requests are waiting already")


def _check(sampling: Sampling, n_vocab: int) -> None:
    """Refuse what would be undefined behaviour in llama.cpp: one bad request must not end the others' engine."""
    if "" in sampling.stop:
        raise _Refused("invalid_prompt", "a stop string is empty")
    numbers = {
        name: value for name in sampling.__struct_fields__ if isinstance(value := getattr(sampling, name), float)
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise _Refused("invalid_prompt", f"{name} {value} is not a finite number")
    if sampling.repeat_penalty <= 0:
        raise _Refused("invalid_prompt", f"repeat_penalty {sampling.repeat_penalty} is not above 0")
    for token, bias in sampling.logit_bias:
        if not 0 <= token < n_vocab:
            raise _Refused("invalid_logit_bias", f"token {token} is not in the vocabulary of {n_vocab}")
        if math.isnan(bias) or bias == math.inf:
            raise _Refused("invalid_logit_bias", f"the bias {bias} of token {token} is not a number")


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
