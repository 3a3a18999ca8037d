"""Labels: corrections from the page, in the file that `moa learn` and `moa label` share.

Each label is a line with the fields of its row, `labelled_by` and `chosen`. Chosen rows are no
random sample: they are used for fitting, but not for guarantees.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from moa._files import LineFile, check_lines, dump_json, replace_text
from moa._json import object_of
from moa.calibration.labelled import normalise_text, row_value
from moa.errors import InputError
from moa.questions import Question
from moa.rows.decided import Values
from moa.studio.book import text_of

PERSON = "person"
Known = dict[tuple[str, str], tuple[object, bool]]
"""Label by text and question, with whether the row was chosen."""
_OURS = ("text", "case", "chosen", "labelled_by", "id", "input")


@dataclass(frozen=True, slots=True)
class _Change:
    place: int
    id: str
    question: str
    before: Values | None
    """Line that it replaced; `None`: there was none."""
    was: str | None
    """Label that the row had on the page before."""
    text: str


class Labels:
    """A file of labels. It is locked and read only for each change, so others can add to it too.

    Args:
        path: The file. It need not exist.

    Raises:
        ConfigError: its name doesn't end in `.jsonl`, or it isn't a file of JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_lines(path, existing="resume")
        self._changes: list[_Change] = []
        self.read()

    def give(
        self,
        line: Values,
        index: int,
        question: Question,
        label: str,
        *,
        id: str,
        was: str | None,
        others: Collection[str] = (),
    ) -> None:
        """Write a label. It replaces an earlier one from the page or from `moa label`.

        Args:
            line: The row, as `moa run` wrote it.
            index: Index of the row.
            question: Question that the label answers.
            label: Name of the option.
            id: Id of the row.
            was: Label that the page showed.
            others: Names of all questions. The row's own values for them are not written as labels.

        Raises:
            InputError: the row has no text, or the question has no such option.
            ConfigError: the file can't be written.
        """
        text = text_of(line)
        if not text.strip():
            raise InputError("this row has no text, so it can't be labelled")
        if label not in [option.name for option in question.options]:
            raise InputError(f"{question.name} is never {label!r:.80}")
        row = line.get("input")
        fields = {key: value for key, value in object_of(row).items() if key not in others}
        value = label if question.name == "label" else row_value(question, label)
        label_line = {
            **fields,
            "text": text,
            question.name: value,
            "labelled_by": PERSON,
            "chosen": True,
        }
        before = self._put(text, question.name, label_line)
        self._changes.append(_Change(index, id, question.name, before, was, text))

    def take_back(self) -> tuple[int, str, str, str | None]:
        """Undo the last change of this session.

        Returns:
            Index and id of its row, its question, and the label before.

        Raises:
            InputError: there is nothing to undo.
        """
        if not self._changes:
            raise InputError("there is nothing to undo")
        change = self._changes[-1]
        self._put(change.text, change.question, change.before)
        self._changes.pop()
        return change.place, change.id, change.question, change.was

    def _put(self, text: str, question: str, label_line: Values | None) -> Values | None:
        """Replace the line of a text and a question, and return the old one.

        A new line is appended. Otherwise the file is rewritten atomically.
        """
        key = normalise_text(text)
        with LineFile(self.path, existing="resume") as file:
            lines = [values for _, _, values in file.lines()]
            matches = [
                normalise_text(str(line.get("text", ""))) == key and question in line
                for line in lines
            ]
            before = next(
                (line for line, is_match in zip(lines, matches, strict=True) if is_match), None
            )
            if before is None and label_line is not None:
                file.add(label_line)
                return None
            left: list[Values] = []
            for line, is_match in zip(lines, matches, strict=True):
                if is_match and line is before:
                    left += [] if label_line is None else [_merge(line, label_line, question)]
                else:
                    left.append(line)
            if left:
                replace_text(self.path, "".join(f"{dump_json(line)}\n" for line in left))
            else:
                file.cut(0)
        return before

    def read(self) -> Known:
        """Read the labels in the file.

        Raises:
            ConfigError: a line isn't a label.
        """
        labels = Known()
        if not self.path.exists():
            return labels
        with LineFile(self.path, existing="resume") as file:
            for number, _, values in file.lines():
                if not isinstance(text := values.get("text"), str):
                    raise file.line_error(number)
                is_chosen = values.get("chosen") is True
                for name, value in values.items():
                    if name not in _OURS:
                        labels.setdefault((normalise_text(text), name), (value, is_chosen))
        return labels


def _merge(before: Values, label_line: Values, question: str) -> Values:
    """Return a line with one question's label changed. Labels of other questions stay."""
    return {**before, question: label_line[question], "labelled_by": label_line["labelled_by"]}
