"""Labels: corrections from the page, in the file that `moa learn` and `moa label` share.

Each label is a line with the fields of its row, `labelled_by` and `chosen`. Chosen rows are no
random sample: they are used for fitting, but not for guarantees. A label that replaces another
keeps it in `earlier_labels`: the page tests with both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from moa.core._files import LineFile, check_lines, dump_json, replacing
from moa.core._json import JSON, list_of, object_of
from moa.core.errors import InputError
from moa.core.questions import Question
from moa.learning.labelled import CHOSEN, PERSON, is_marked, normalise_text, row_value
from moa.rows.decided import Values
from moa.studio.book import GivenLabel, GivenLabels, read_label, text_of
from moa.studio.data import RowLine

EARLIER = "earlier_labels"
_OURS = ("text", "case", "chosen", "labelled_by", EARLIER, "id", "input")


@dataclass(frozen=True, slots=True)
class _Change:
    row: RowLine
    before: bytes
    """Line that it replaced; empty: there was none."""
    after: bytes
    """Line that it wrote."""


class Labels:
    """A file of labels. It is locked and read only for each change, so others can add to it too.

    Args:
        path: The file. It need not exist.
        drawn: Texts that were drawn at random, in their order. One that somebody chose and
            labelled before has the line to add, as a drawn one, once it or a later one is labelled:
            else its error would be missing in the sample.

    Raises:
        ConfigError: its name doesn't end in `.jsonl`, or it isn't a file of JSON lines.
    """

    def __init__(self, path: Path, *, drawn: Mapping[str, JSON | None] | None = None) -> None:
        self.path = path
        self._drawn = {normalise_text(text): line for text, line in (drawn or {}).items()}
        check_lines(path, existing="resume")
        self._changes: list[_Change] = []
        self.read()

    def give(
        self,
        line: Values,
        row_line: RowLine,
        question: Question,
        label: str,
        *,
        others: Collection[str] = (),
    ) -> None:
        """Write a label. It replaces an earlier one from the page or from `moa label`.

        Args:
            line: The row, as `moa run` wrote it.
            row_line: The row, as it was shown.
            question: Question that the label answers.
            label: Name of the option.
            others: Names of all questions. The row's own values for them are not written as labels.

        Raises:
            InputError: the row has no text, or the question has no such option.
            ConfigError: the file can't be written.
        """
        text = text_of(line)
        key = normalise_text(text)
        if not text.strip():
            raise InputError("this row has no text, so it can't be labelled")
        names = [option.name for option in question.options]
        if label not in names:
            raise InputError(f"{question.name} is never {label!r:.80}")
        row = line.get("input")
        fields = {key: value for key, value in object_of(row).items() if key not in others}
        value = label if question.name == "label" else row_value(question, label)
        label_line = {
            **fields,
            "text": text,
            question.name: value,
            "labelled_by": PERSON,
            CHOSEN: key not in self._drawn,
        }
        with LineFile(self.path, existing="resume") as file:
            self._take_over(file, key)
            lines = _Lines(file)
            start, before, values = lines.find(
                lambda values, _: (
                    question.name in values
                    and read_label(question, values[question.name]) in names
                    and normalise_text(str(values.get("text", ""))) == key
                    and not (key in self._drawn and is_marked(values, CHOSEN))
                )
            )
            if values is not None:
                label_line = _replace(values, label_line, question.name)
            after = f"{dump_json(label_line)}\n".encode()
            lines.put(start, before, after)
        self._changes.append(_Change(row_line, before, after))

    def _take_over(self, file: LineFile, key: str) -> None:
        """Add the lines of the drawn texts up to the one that is labelled now."""
        texts = [*self._drawn]
        for text in texts[: texts.index(key) + 1] if key in self._drawn else ():
            taken, self._drawn[text] = self._drawn[text], None
            if taken is not None:
                file.add(taken)

    def take_back(self) -> RowLine:
        """Undo the last change of this session: the file has the same bytes as before.

        Returns:
            Its row, as it was shown before.

        Raises:
            InputError: there is nothing to undo, or somebody else has changed the line since.
        """
        if not self._changes:
            raise InputError("there is nothing to undo")
        change = self._changes[-1]
        with LineFile(self.path, existing="resume") as file:
            lines = _Lines(file)
            start, _, values = lines.find(lambda _, raw: raw == change.after)
            if values is not None:
                lines.put(start, change.after, change.before)
        self._changes.pop()
        if values is None:
            raise InputError(
                f"this label has been changed in {self.path} since, so it isn't undone: label the "
                "row again"
            )
        return change.row

    def read(self) -> GivenLabels:
        """Read the labels in the file, by text and question.

        Raises:
            ConfigError: a line isn't a label.
        """
        labels: defaultdict[tuple[str, str], list[GivenLabel]] = defaultdict(list)
        if not self.path.exists():
            return labels
        with LineFile(self.path, existing="resume") as file:
            for number, _, values in file.lines():
                if not isinstance(text := values.get("text"), str):
                    raise file.line_error(number)
                key = normalise_text(text)
                for name, value in values.items():
                    if name not in _OURS:
                        earlier = _earlier_labels(values, name)
                        labels[key, name].append(
                            GivenLabel(value, is_marked(values, CHOSEN), earlier)
                        )
        return labels


class _Lines:
    """The lines of a locked file, of which one at a time is changed. The others keep their bytes.

    Raises:
        ConfigError: a line isn't JSON.
    """

    def __init__(self, file: LineFile) -> None:
        self._file = file
        self._lines = [(start, values) for _, start, values in file.lines()]
        self._content = file.path.read_bytes()

    def find(self, matches: Callable[[JSON, bytes], bool]) -> tuple[int, bytes, JSON | None]:
        """Return the start, bytes and fields of the last line that matches, as the last one counts.

        If there is none: the end of the file, no bytes and `None`.
        """
        for start, values in reversed(self._lines):
            raw = self._content[start : self._content.index(b"\n", start) + 1]
            if matches(values, raw):
                return start, raw, values
        return len(self._content), b"", None

    def put(self, start: int, before: bytes, after: bytes) -> None:
        """Replace a line atomically; without `before` it is appended, without `after` removed."""
        content = self._content[:start] + after + self._content[start + len(before) :]
        if start == len(self._content):
            self._file.add_line(after.removesuffix(b"\n"))
        elif content:
            with replacing(self._file.path) as out:
                out.write(content)
        else:
            self._file.cut(0)


def _earlier_labels(values: Values, question: str) -> tuple[object, ...]:
    return (*list_of(object_of(values.get(EARLIER)).get(question)),)


def _replace(before: Values, label_line: Values, question: str) -> JSON:
    """Return a line with one question's label changed. Labels of other questions stay."""
    label = label_line[question]
    found: list[object] = []
    for one in (*_earlier_labels(before, question), before[question]):
        found += [one] if one != label and one not in found else []
    earlier = {**object_of(before.get(EARLIER)), question: found}
    changed: JSON = {**before, question: label, "labelled_by": label_line["labelled_by"]}
    return {**changed, EARLIER: earlier} if any(earlier.values()) else changed
