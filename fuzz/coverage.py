"""One target under atheris, in a process of its own: `python -m fuzz.coverage TARGET FLAGS…`."""

import sys

import atheris

with atheris.instrument_imports(include=["heliograph"]):
    from fuzz import rig
    from fuzz.targets import TARGETS


def main() -> None:
    """Run until libFuzzer's flags say enough, or something breaks."""
    rig.sound_the_alarm()
    name, *flags = sys.argv[1:]
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *flags], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
