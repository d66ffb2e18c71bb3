"""Train one config:  python -m experiments.train --config experiments/configs/digits_cnn_w2.py [--field=value ...]

--folder=PATH   the run's folder (default runs/<config name>)
--resume        go on from the folder's last checkpoint (or begin, where there is none)

Exit status: 0 done; 2 an error, said on stderr; 75 stopped by SIGTERM, with a checkpoint of the last step to resume
from. A run killed without warning (SIGKILL, a power cut) resumes from its last checkpoint to the same bits.
"""

import argparse
import logging
import sys
from pathlib import Path

from experiments import config as configs
from experiments import run as runs
from experiments.divergence import Diverged
from experiments.preemption import EXIT_STATUS, Preempted, stop_on_sigterm
from experiments.progress import bar


def _quiet_orbax() -> None:
    """Of a failure, one message: orbax also logs what it raises, and closes its event loop on callbacks to come."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    before = sys.unraisablehook
    sys.unraisablehook = lambda got: None if str(got.exc_value) == "Event loop is closed" else before(got)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.train", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a file in experiments/configs/")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    known, overrides = parser.parse_known_args(arguments)
    _quiet_orbax()
    try:
        config = configs.override(configs.load(known.config), overrides)
        folder = known.folder or Path("runs") / Path(known.config).stem
        with stop_on_sigterm() as stop, bar() as progress:
            result = runs.run(config, folder, resume=known.resume, progress=progress, stop=stop)
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STATUS
    except (ValueError, OSError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(result.report)
    print(f"float {100 * result.float_accuracy:.2f}  soft {100 * result.soft_accuracy:.2f}  "
          f"hard {100 * result.hard_accuracy:.2f}  (test accuracy, %, last epoch)")
    print(f"artifact {result.folder / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
