"""Recheck: the promise of a calibration is tested where it is used now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa.calibration.labelled import Labelled
    from moa.calibration.reading_members import Progress
    from moa.cli.calibrations import Job
    from moa.context import RunContext
    from moa.tiers import Endpoints

CONFIRMED, WITHDRAWN = 0, 1


def recheck(file: Path, rows: list[Labelled], out: Path | None) -> Job:
    """Test it, say what was found, and write it down where `out` says."""

    async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
        from moa.calibration import Calibration, now
        from moa.calibration.checking import recheck as check
        from moa.cli import screen
        from moa.cli.calibrations import calibrated, warn
        from moa.cli.labelled import languages

        calibration = Calibration.load(file)
        ready = calibrated(calibration, endpoints)
        warn(screen.err(), await ready.check(context))
        bound = await check(ready, rows, context=context, progress=progress)
        confirmed = bound.threshold is not None
        console = screen.out()
        console.print(f"{'confirmed' if confirmed else 'withdrawn'}: {bound.summary}", markup=False)
        if out is not None:
            found = languages([row.text for row in rows])
            data = calibration.data.model_copy(update={"languages": found})
            update = {
                "bound": bound,
                "models": await ready.identities(context),
                "data": data,
                "made": now(),
            }
            calibration.model_copy(update=update).sealed().save(out)
            console.print(f"written to {out}", markup=False)
        return CONFIRMED if confirmed else WITHDRAWN

    return job
