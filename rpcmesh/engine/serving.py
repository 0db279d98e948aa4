"""One loaded model serving many requests: scheduler, samplers and text come together here. No socket, no process."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from rpcmesh.engine.chat import ChatError, ChatTemplate
from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.llama import DecodeError, LoadError, Runtime, Sampler
from rpcmesh.engine.messages import (
    ChatPrompt,
    Delta,
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
from rpcmesh.engine.scheduler import Batch, Sampled, Scheduler
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

    @property
    def usage(self) -> Usage:
        return Usage(self.n_prompt, self.n_completion)


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
        )

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def submit(self, request: GenerateRequest, file: int | None = None) -> Step | Failure | None:
        """Queue a request. Answers at once when it cannot be served, or when nothing is left to generate.

        ``file`` holds what its snapshot speaks of; it stays the caller's.
        """
        try:
            return self._admit(request, file)
        except _Refused as refused:
            return Failure(request.id, refused.code, refused.message)

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is not known has just finished."""
        if request_id in self._open:
            self._close(request_id)

    def stop_saving(self, request_id: str) -> None:
        """Nobody keeps the cells of this request any more."""
        if request_id in self._open:
            self._saving.stop(request_id)

    def score(self, score: Score) -> Scored | Failure:
        """Judge tokens that were chosen elsewhere. All KV cells are needed for it, so only while nobody is served."""
        try:
            if not self.idle:
                raise _Refused("overloaded", "tokens are scored only while no request is open")
            prompt = self._prompt_tokens(score.prompt)
            tokens = [*prompt, *score.token_ids]
            self._require_known(tokens)
            if len(tokens) > self._runtime.limits.n_ctx:
                raise _Refused("context_length_exceeded", f"{len(tokens)} tokens do not fit the context")
            return Scored(score.id, tuple(self._runtime.margins(tokens, len(prompt))))
        except _Refused as refused:
            return Failure(score.id, refused.code, refused.message)
        except DecodeError as error:
            return Failure(score.id, "engine_error", error.message)

    def step(self) -> Iterator[Step | Failure | Saved | Restored]:
        """Decode one batch, and put back or save at most a piece of one sequence. Not to be called while idle."""
        if (restored := self._saving.restore_next(self._scheduler.slot_of)) is not None:
            self._go_on(restored)
            yield restored
        batch = self._scheduler.next_batch()
        if not batch.chunks:
            return
        began = time.monotonic()
        try:
            self._runtime.decode(batch)
        except DecodeError as error:
            for chunk in batch.chunks:
                self._close(chunk.id)
                yield Failure(chunk.id, "engine_error", error.message)
            return
        tokens = [self._open[output.id].sampler.sample(output.index) for output in batch.outputs]
        self._note_prefill(batch, began)
        deltas = tuple(self._delta(sampled) for sampled in self._scheduler.commit(batch, tokens))
        if deltas:
            yield Step(deltas)
            # Only now is the batch known to be done: without logits it may still be under way.
            if (saved := self._saving.save_next(self._scheduler.cached())) is not None:
                yield saved

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

    def _admit(self, request: GenerateRequest, file: int | None) -> Step | None:
        if self._scheduler.n_waiting >= WAITING_MAX:
            raise _Refused("overloaded", f"{WAITING_MAX} requests are waiting already")
        if request.id in self._open:
            raise _Refused("engine_error", f"request id {request.id!r} is in use")
        _check(request.sampling)
        prompt = self._prompt_tokens(request.prompt)
        resumed = list(request.resume_token_ids)
        tokens = prompt + resumed
        self._require_known(tokens)
        left = None if request.max_tokens is None else request.max_tokens - len(resumed)
        text = TextAssembler(request.sampling.stop)
        for token in resumed:
            text.push(self._vocabulary.piece(token))
        if text.stopped or len(tokens) >= self._runtime.limits.n_ctx or (left is not None and left < 1):
            reason: FinishReason = "stop" if text.stopped else "length"
            return Step((Delta(request.id, text.finish(), (), reason, Usage(len(prompt), len(resumed))),))
        held = (
            file is not None
            and request.snapshot is not None
            and self._saving.accept(request.id, request.snapshot, file, len(tokens))
        )
        self._scheduler.submit(request.id, tokens, left, held=held)
        self._open[request.id] = _Completion(
            sampler=self._sampler(request.sampling, request.ignore_eos, tokens, len(resumed)),
            text=text,
            n_prompt=len(prompt),
            n_completion=len(resumed),
        )
        return None

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
                    tokens = self._vocabulary.tokenize_chat(self._template.render(messages))
                except ChatError as error:
                    raise _Refused("invalid_prompt", error.message) from error
            case TextPrompt(text):
                tokens = self._vocabulary.tokenize(text, add_special=True)
            case TokenPrompt(token_ids):
                tokens = list(token_ids)
        if not tokens:
            raise _Refused("invalid_prompt", "the prompt is empty")
        n_ctx = self._runtime.limits.n_ctx
        if len(tokens) >= n_ctx:
            raise _Refused(
                "context_length_exceeded",
                f"this model's maximum context length is {n_ctx} tokens, but the prompt has {len(tokens)}",
            )
        return tokens

    def _sampler(self, sampling: Sampling, ignore_eos: bool, tokens: list[int], n_sampled: int) -> Sampler:
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        return self._runtime.sampler(sampling, seed=seed, ignore_eos=ignore_eos, seen=tokens, n_sampled=n_sampled)

    def _delta(self, sampled: Sampled) -> Delta:
        completion = self._open[sampled.id]
        completion.n_completion += 1
        emitted = completion.text.push(self._vocabulary.piece(sampled.token))
        finish: FinishReason | None = "stop" if completion.text.stopped else sampled.finish
        if finish is None:
            return Delta(sampled.id, emitted, (sampled.token,))
        self._close(sampled.id, sampled.slot)
        emitted += completion.text.finish()
        return Delta(sampled.id, emitted, (sampled.token,), finish, completion.usage)

    def _close(self, request_id: str, slot: int | None = None) -> None:
        """Free all that a request holds. ``slot`` is given when the scheduler has dropped the sequence itself."""
        self._open.pop(request_id).sampler.free()
        self._saving.forget(request_id)
        dropped = self._scheduler.drop(request_id)
        held = slot if dropped is None else dropped
        if held is not None:
            self._runtime.forget(held)

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
        self.submit(GenerateRequest("warm-up", prompt, max_tokens=1, sampling=Sampling(temperature=0)))
        for event in self.step():
            if isinstance(event, Failure):
                raise LoadError(f"the model loads but does not answer: {event.message}")
        return (time.monotonic() - started) * 1000


def _check(sampling: Sampling) -> None:
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


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
