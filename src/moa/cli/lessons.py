"""Lessons: learns each question of a graph for `moa learn --graph`, and shows the gain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moa.cli import options, screen
from moa.core.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from moa.cli.learn import Wishes
    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.evals.learning import Lesson, Terms
    from moa.inbox.intents import Wish
    from moa.learning.labelled_graph import Learner, Message
    from moa.learning.learned import LearnedGraph

_LONGEST = 300
"""Maximum characters of an example message in a prompt."""
MOST_RUN = 200
"""Maximum number of labelled messages to run through the graph, to count those that it settles."""


async def learn_graph(
    graph: str,
    source: str,
    wishes: Wishes,
    given: options.ReadingAskingOptions,
    out: Path,
    written: tuple[Path, bool] | None,
    write: bool,
    endpoints: Endpoints,
    context: RunContext,
) -> int:
    """Learn all questions of a graph, print the gain, and write the result."""
    from moa.evals.learning import Lesson
    from moa.learning.learned import LearnedGraph

    learner, messages = await read_messages(graph, source, given, endpoints, context)
    looks = _count_looks(out, graph)
    terms = _make_terms(wishes, looks + 1)
    examples: list[Message] = []
    if written is not None:
        path, yes = written
        examples = await written_messages(learner, path, messages, endpoints, context, yes=yes)
    lessons: dict[str, Lesson] = {}
    reasons: dict[str, str] = {}
    with screen.progress("reading") as progress:
        for name in learner.questions:
            lesson = await _lesson(learner, name, messages, examples, terms, context, progress)
            if isinstance(lesson, Lesson):
                lessons[name] = lesson
            else:
                reasons[name] = lesson
    if not lessons:
        details = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ConfigError(f"nothing can be learned from {source}: {details}. Label more: moa label")
    _show(lessons, reasons, terms)
    await _show_settled(learner, lessons, messages, context)
    candidates = {name: lesson.new_calibration for name, lesson in lessons.items()}
    calibrations = {
        name: calibration for name, calibration in candidates.items() if calibration is not None
    }
    looked = looks + any(lesson.tested for lesson in lessons.values())
    learned = LearnedGraph(graph=graph, looks=looked, calibrations=calibrations)
    learned.save(out)
    screen.results_console().print(learned.summary)
    screen.details().print(f"written to {out}")
    _name_file(graph, out, given.config, write=write)
    return 0


async def read_messages(
    graph: str,
    source: str,
    given: options.ReadingAskingOptions,
    endpoints: Endpoints,
    context: RunContext,
) -> tuple[Learner, list[Message]]:
    """Read labelled rows as a graph does."""
    from moa.learning.labelled import warn_of_corrections
    from moa.learning.labelled_graph import Learner, rows_of

    learner = Learner(graph, endpoints)
    rows = rows_of(source, **given.row_format)
    with screen.progress("reading") as progress:
        messages = await learner.messages(rows, context, progress)
    if not any(message.labels for message in messages):
        names = ", ".join(learner.questions)
        raise ConfigError(
            f"no row of {source} has a label: a row has a key for each question, of {names}. "
            f"Labels are made by: moa label {graph} {source} --out labelled.jsonl"
        )
    screen.warn(
        [
            f"{name}: {warning}"
            for name in learner.questions
            for warning in warn_of_corrections(learner.collect_labelled(name, messages))
        ]
    )
    return learner, messages


async def _lesson(
    learner: Learner,
    name: str,
    messages: Sequence[Message],
    examples: Sequence[Message],
    terms: Terms,
    context: RunContext,
    progress: screen.Progress,
) -> Lesson | str:
    from moa.evals.learning import learn_from

    def tell(feature: str, done: int, total: int) -> None:
        progress(f"{name}: {feature}", done, total)

    agent, question = learner.agents[name], learner.questions[name]
    return await learn_from(
        agent,
        question,
        learner.collect_labelled(name, messages),
        terms,
        context=context,
        more_examples=learner.collect_labelled(name, examples),
        progress=tell,
    )


async def written_messages(
    learner: Learner,
    path: Path,
    messages: Sequence[Message],
    endpoints: Endpoints,
    context: RunContext,
    *,
    yes: bool,
) -> list[Message]:
    """Let the large model write messages for each label that has none in the file yet.

    Each message is added to the file at once, marked as written by the model.
    """
    from moa.core._files import LineFile
    from moa.inbox.intents import tokens_of_writing, write_messages
    from moa.learning.labelled_graph import SETTLES

    name = SETTLES
    if not endpoints.has_llm:
        raise ConfigError(
            "--write-examples needs a large model, and none is configured. Add one to moa.toml: "
            "moa models add --help"
        )
    llm = endpoints.llm
    with LineFile(path, existing="resume") as file:
        lines = [values for _, _, values in file.lines()]
        written_intents = {str(values.get(name)) for values in lines}
        wishes = [wish for wish in _wishes(learner, messages) if wish.intent not in written_intents]
        if wishes:
            input_tokens, output_tokens = tokens_of_writing(wishes)
            purpose = f"to write messages, into {path}"
            screen.agree_to_pay(
                llm,
                purpose,
                requests=len(wishes),
                read=input_tokens,
                output_tokens=output_tokens,
                yes=yes,
            )
        with screen.progress() as progress:
            for number, wish in enumerate(wishes, start=1):
                author = f"{llm.name}: {llm.model}"
                for text in await write_messages(llm, wish, context):
                    lines.append(
                        {"text": text, name: wish.intent, "written_by": author, "chosen": True}
                    )
                    file.add(lines[-1])
                progress(f"labels that {llm.name} has written for", number, len(wishes))
    rows = ((f"{path}, line {number}", line) for number, line in enumerate(lines, start=1))
    return await learner.messages(rows, context)


def _wishes(learner: Learner, messages: Sequence[Message]) -> list[Wish]:
    """Build a request for messages for each label of the question that settles."""
    from moa.core.questions import NONE_OF_THESE
    from moa.inbox.intents import EXAMPLES, Wish, languages_of
    from moa.learning.labelled_graph import SETTLES

    name = SETTLES
    question, agent = learner.questions[name], learner.agents[name]
    options = [option for option in question.options if option.name != NONE_OF_THESE]
    spoken = languages_of([message.texts[name] for message in messages])
    languages = [language for language in dict.fromkeys(spoken) if language] or ["en"]
    meanings = [f"{option.name}: {option.description}" for option in options]
    wishes: list[Wish] = []
    for index, option in enumerate(options):
        texts = [
            example.text for example in agent.examples if example.labels.get(name) == option.name
        ]
        texts += [m.texts[name] for m in messages if m.labels.get(name) == option.name]
        wishes.append(
            Wish(
                intent=option.name,
                means=option.description or option.name,
                messages_like_these=[text[:_LONGEST] for text in texts[: 2 * EXAMPLES]],
                other_intents=[*meanings[:index], *meanings[index + 1 :]],
                languages=languages,
            )
        )
    return wishes


def _make_terms(wishes: Wishes, look: int) -> Terms:
    from moa.cli.learn import RISK_OF_GRAPH
    from moa.decisions.guarantee import Guarantee
    from moa.evals.learning import Terms

    risk = RISK_OF_GRAPH if wishes.risk is None else wishes.risk
    return Terms(
        guarantee=Guarantee(risk, wishes.confidence, look),
        by_label=wishes.per_class,
        learn=wishes.learn,
        latency_penalty=wishes.latency_penalty,
        limit_s=wishes.limit_s,
        insists=wishes.risk is not None,
    )


def _count_looks(out: Path, graph: str) -> int:
    """Return the number of looks in the file to replace; 0 if there is none.

    Raises:
        ConfigError: the file is of another kind, or for another graph.
    """
    from moa.learning.learned import LearnedGraph

    if not out.exists() or not out.stat().st_size:
        return 0
    try:
        before = LearnedGraph.load(out)
    except CalibrationError as error:
        raise ConfigError(
            f"--out {out} is there, and is not what was learned before: {error}. Give another file"
        ) from error
    if before.graph != graph:
        raise ConfigError(
            f"--out {out} was learned for the graph {before.graph!r}: give another file"
        )
    return before.looks


def _show(lessons: Mapping[str, Lesson], reasons: Mapping[str, str], terms: Terms) -> None:
    """Print the gain for each question."""
    from moa.learning.learned import NONE_DRAWN

    console = screen.details()
    columns = ("question", "labels", "drawn", "right before", "with half", "right now", "50 more")
    rows = [
        (
            name,
            str(lesson.labels),
            str(lesson.drawn),
            *_shares(lesson),
        )
        for name, lesson in lessons.items()
    ]
    console.print(screen.make_table(columns, rows, words=1))
    console.print(
        "Right now: by cross-validation, on the labels that were drawn at random; with half: "
        "learned from one half, and looked at on the other; 50 more: points that as many labels "
        "would add"
    )
    for name, lesson in lessons.items():
        if not lesson.drawn:
            console.print(f"{name}: nothing can be expected: {NONE_DRAWN}")
        if lesson.new_calibration is None:
            console.print(f"{name}: stays as it is, since what was learned is no better")
        for line in _describe_guarantee(lesson, terms):
            console.print(f"{name}: {line}")
    for name, reason in reasons.items():
        console.print(f"{name}: stays as it is: {reason}")


def _shares(lesson: Lesson) -> tuple[str, str, str, str]:
    """Format the shares of right answers; empty ones if no label was drawn at random."""
    if not lesson.drawn:
        return ("", "", "", "")
    return (
        f"{lesson.before:.0%}",
        "" if lesson.half is None else f"{lesson.half:.0%}",
        f"{lesson.after:.0%}",
        "" if lesson.gain_of_more is None else f"about {100 * lesson.gain_of_more:+.1f}",
    )


def _describe_guarantee(lesson: Lesson, terms: Terms) -> list[str]:
    """Describe the tested guarantee, or the labels that are missing for a test."""
    guarantee = replace(terms.guarantee, look=None)
    if lesson.tested is not None:
        bound = lesson.tested.proof.bound
        if lesson.guarantees or lesson.tested.more_rows is None:
            return [bound.summary]
        return [f"{bound.summary}. That is about {lesson.tested.more_rows} labels more in all"]
    if lesson.more > 0:
        shortfall = f"takes about {lesson.more} more labels drawn at random (moa label --random)"
        return [f"no guarantee yet: {guarantee}, {shortfall}"]
    return []


async def _show_settled(
    learner: Learner,
    lessons: Mapping[str, Lesson],
    messages: Sequence[Message],
    context: RunContext,
) -> None:
    """Print how many messages the graph settles, before and after learning from half of them.

    Only messages drawn at random are counted. Nothing is printed without any.
    """
    from moa.evals.learning import HALVES, half_of
    from moa.learning.labelled import join_repeats, normalise_text
    from moa.learning.labelled_graph import SETTLES, SettledCount

    name = SETTLES
    rows_by_text = join_repeats(learner.collect_labelled(name, messages))
    labelled = [message for message in messages if name in message.labels]
    last_messages = {normalise_text(message.texts[name]): message for message in labelled}
    sample = [last_messages[text] for text, row in rows_by_text.items() if not row.chosen]
    sample = sample[:: max(1, -(-len(sample) // MOST_RUN))]
    if not sample or name not in lessons or not lessons[name].halves:
        return
    with screen.progress() as progress:
        before = await learner.count_settled(learner.node, sample, context, progress)
        parts: list[SettledCount] = []
        for half in HALVES:
            calibrations = {
                name: lesson.halves[half]
                for name, lesson in lessons.items()
                if lesson.halves and lesson.new_calibration
            }
            other_half = [message for message in sample if half_of(message.texts[name]) != half]
            parts.append(
                await learner.count_settled(
                    learner.build(calibrations), other_half, context, progress
                )
            )
    after = SettledCount(*map(sum, zip(*parts, strict=True)))
    console = screen.details()
    shares = f"{_format_shares(before)} before; {_format_shares(after)} with half of the labels"
    console.print(f"Handled without an LLM: {shares}")


def _format_shares(counts: tuple[int, int, int]) -> str:
    messages, settled, right = counts
    of_those = f", of which {right / settled:.0%} are right" if settled else ""
    return f"{settled} of {messages} ({settled / max(1, messages):.0%}){of_those}"


def _name_file(graph: str, out: Path, config: Path | None, *, write: bool) -> None:
    """Name the file in the graph's table, or print how to do it."""
    from moa.config.file import set_in_graph, target
    from moa.learning.labelled_graph import LEARNED

    name = os.path.relpath(out.resolve(), target(config).resolve().parent)
    if not write:
        screen.details().print(f'To use it, name it in [graphs.{graph}]: {LEARNED} = "{name}"')
        return
    change = set_in_graph(config, graph, {LEARNED: name})
    old_name = change.changed.get(LEARNED)
    suffix = f', was "{old_name}"' if old_name is not None else ""
    screen.details().print(f'[graphs.{graph}] {LEARNED} = "{name}"{suffix}, in {change.file}')


async def recheck_graph(
    graph: str,
    file: Path,
    source: str,
    given: options.ReadingAskingOptions,
    out: Path | None,
    endpoints: Endpoints,
    context: RunContext,
) -> int:
    """Test the guarantees of a graph on labelled rows; return the exit code."""
    from moa.decisions.calibrated import CalibratedDecider
    from moa.decisions.features import sources_of
    from moa.evals.calibrations import detector
    from moa.evals.measuring import recheck
    from moa.learning.learned import LearnedGraph

    learned = LearnedGraph.load(file)
    learner, messages = await read_messages(graph, source, given, endpoints, context)
    tested = dict(learned.calibrations)
    guaranteed = [name for name in tested if learned.guarantees(name)]
    if not guaranteed:
        raise ConfigError(f"{file} guarantees nothing, so there is nothing to test")
    for name in guaranteed:
        question, agent = learner.questions[name], learner.agents[name]
        calibration = learned.calibration_of(graph, question)
        assert calibration is not None, "it is guaranteed"
        sources = sources_of(agent.endpoint, encoder=agent.encoder)
        with screen.progress("reading") as progress:
            tested[name], notes = await recheck(
                CalibratedDecider(calibration, question, sources),
                learner.collect_labelled(name, messages),
                context=context,
                language=detector(),
                progress=partial(progress),
            )
        screen.warn(notes)
        bound = tested[name].proof.bound
        word = "confirmed" if bound.threshold is not None else "withdrawn"
        screen.results_console().print(f"{name}: {word}: {bound.summary}")
    result: LearnedGraph = learned.model_copy(update={"calibrations": tested})
    if out is not None:
        result.save(out)
        screen.details().print(f"written to {out}")
    return 0 if all(map(result.guarantees, guaranteed)) else 1
