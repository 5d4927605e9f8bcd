"""Runs the programs of READMEs with nothing but what is installed: ``quickstart.py README.md...``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def programs(readme: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)


if __name__ == "__main__":
    for program in [program for page in sys.argv[1:] for program in programs(Path(page))]:
        subprocess.run([sys.executable, "-I", "-W", "error", "-c", program], check=True, timeout=60)
