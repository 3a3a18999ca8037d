"""Answers that nothing rests on."""

from __future__ import annotations

from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.deciding import Decider
from moa.core.node import Reply
from moa.core.questions import Predicate, predicate
from moa.guards import Blocked, Exchange
from moa.guards.groundedness import Groundedness
from moa.guards.guarded import Guarded
from moa.guards.verifiers import Plausible
from moa.testing import ScriptedEndpoint

PASSAGE = "The bridge was opened in 1932. It is 503 metres long and crosses the harbour."


async def test_every_sentence_of_an_answer_is_looked_up() -> None:
    output = Reply(text="The bridge was opened in 1932. It was painted by elephants in 1950.")
    verdict = (await Groundedness().run(Exchange(request=PASSAGE, output=output))).output
    assert not verdict.kept
    assert verdict.ungrounded == (1,)
    assert verdict.sentences == 2
    assert "elephants" not in verdict.reason


async def test_passages_may_come_from_the_output() -> None:
    class Cited(Reply):
        passages: list[str]

    output = Cited(text="The bridge crosses the harbour.", passages=[PASSAGE])
    guard = Groundedness(passages=lambda request, output: output.passages)
    # The texts of an output are all of its fields, so the passage is looked up in itself too.
    assert (await guard.run(Exchange(request="?", output=output))).output.kept


async def test_a_model_can_judge_the_sentences() -> None:
    class Held(BaseModel):
        held: Predicate = predicate("Does the request hold what the reply says?")

    slm = ScriptedEndpoint([{"held": {"yes": 0.9}}, {"held": {"yes": 0.2}}])
    guard = Groundedness(policy=Plausible(Decider(slm, Held)))
    output = Reply(text="It is long. It is green.")
    verdict = (await guard.run(Exchange(request=PASSAGE, output=output))).output
    assert len(verdict.ungrounded) == 1


async def test_it_stands_after_a_node() -> None:
    writer = Agent(ScriptedEndpoint(["It was painted by elephants."]), "Answer.")
    output = (await Guarded(node=writer, after=[Groundedness()]).run(PASSAGE)).output
    assert isinstance(output, Blocked)
    assert output.guard == "groundedness"
