"""Asks the mesh: ``python ask.py "What is the capital of France?" [DIRECTORY]``."""

import sys

from iicp_core import sync

question, directory = [*sys.argv[1:], "http://127.0.0.1:9480"][:2]
with sync.Client(directory=directory) as client:
    print(client.chat(question, max_tokens=64).text)
