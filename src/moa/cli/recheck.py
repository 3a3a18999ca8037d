"""Recheck: the promise of a calibration is tested where it is used now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa.calibration.features import Progress
    from moa.calibration.labelled import Labelled
    from moa.cli.calibrations import Job
    from moa.context import RunContext
    from moa.tiers import Endpoints

CONFIRMED, WITHDRAWN = 0, 1


def recheck(file: Path, rows: list[Labelled], out: Path | None) -> Job:
    """Test it, say what was found, and write it down where `out` says."""

    async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
        from moa.agents.language import can_detect, language_of
        from moa.calibration.calibrated import recheck as check
        from moa.calibration.file import Calibration, now
        from moa.cli import screen
        from moa.cli.calibrations import calibrated, warn

        calibration = Calibration.load(file)
        ready = calibrated(calibration, endpoints)
        warn(screen.err(), await ready.check(context))
        detect = language_of if can_detect() else None
        found = await check(ready, rows, context=context, language=detect, progress=progress)
        warn(screen.err(), list(found.notes))
        bound = found.bound
        confirmed = bound.threshold is not None
        console = screen.out()
        console.print(f"{'confirmed' if confirmed else 'withdrawn'}: {bound.summary}")
        if out is not None:
            data = calibration.data.model_copy(update={"languages": found.languages})
            update = {
                "bound": bound,
                "bounds": found.bounds,
                "models": await ready.identities(context),
                "data": data,
                "drift": found.drift,
                "made": now(),
            }
            calibration.model_copy(update=update).sealed().save(out)
            console.print(f"written to {out}")
        return CONFIRMED if confirmed else WITHDRAWN

    return job
