"""Profiles: what each kind of server that decides takes in one request, checked before sending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from moa.errors import ConfigError
from moa.questions import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Limits and habits of one kind of server."""

    server: str
    """What it is called in messages."""
    most_options: int = 255
    """Most options of a choice."""
    most_levels: int = 10
    """Most levels of a score."""
    most_questions: int = 64
    """Most questions in one request; more are spread over several."""
    together: bool = True
    """Whether questions in one request leave each other's answers alone."""
    empty_state: bool = True
    """Whether the state may be empty."""

    def check(self, state: str, questions: Sequence[Question]) -> None:
        """Refuse what this server would refuse, or cut.

        Raises:
            ConfigError: a question has too many options or levels, or the state is empty.
        """
        if not state.strip() and not self.empty_state:
            raise ConfigError(f"{self.server} decides about no empty text: leave it out")
        for question in questions:
            score = question.kind == "score"
            most = self.most_levels if score else self.most_options
            if len(question.options) > most:
                raise ConfigError(
                    f"question {question.name!r} has {len(question.options)} "
                    f"{'levels' if score else 'options'}, and {self.server} takes {most}. "
                    "Group them and ask twice, or ask an endpoint that takes more"
                )

    def requests(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        """Spread questions over as many requests as this server needs."""
        size = self.most_questions if self.together else 1
        return [questions[start : start + size] for start in range(0, len(questions), size)]


GENERIC = Profile(server="a System One server")
TYPESAFE = Profile(server="TypeSafe")
VLLM = Profile(server="vLLM", most_options=26)
LLAMACPP = Profile(server="llama.cpp", together=False)
OLLAMA = Profile(
    server="Ollama", most_options=26, most_levels=26, together=False, empty_state=False
)
SGLANG = Profile(server="SGLang", empty_state=False)
OPENAI = Profile(server="OpenAI", most_questions=400)

_BY_OWNER: Mapping[str, Profile] = {
    "typesafe": TYPESAFE,
    "vllm": VLLM,
    "llamacpp": LLAMACPP,
    "library": OLLAMA,
    "sglang": SGLANG,
}


def profile_of(models: Mapping[str, Any]) -> Profile:
    """Tell the server by `owned_by` in its `GET /v1/models`; `GENERIC` where it says nothing."""
    listed = models.get("data")
    for entry in cast("list[object]", listed) if isinstance(listed, list) else []:
        owner = cast("dict[str, object]", entry).get("owned_by") if isinstance(entry, dict) else ""
        if isinstance(owner, str) and owner.lower() in _BY_OWNER:
            return _BY_OWNER[owner.lower()]
    return GENERIC
