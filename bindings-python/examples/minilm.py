"""A node that embeds texts, and a client that sorts sentences by meaning: ``python minilm.py FOLDER``.

The folder holds ``model.onnx`` and ``tokenizer.json`` of all-MiniLM-L6-v2.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

import iicp_core as iicp

folder = Path(sys.argv[1])
model = InferenceSession(folder / "model.onnx")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding()


def embed(task: iicp.Inbound) -> iicp.Reply:
    """Runs the model; a plain function is called on a thread."""
    texts = tokenizer.encode_batch(task.payload["input"])
    mask = np.array([text.attention_mask for text in texts])
    ids = np.array([text.ids for text in texts])
    (tokens,) = model.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    # What a text means is the mean of its tokens, padding apart; scaled to length one.
    vectors = (tokens * mask[..., None]).sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors.tolist())]
    return iicp.Reply({"model": "all-MiniLM-L6-v2", "data": data}, tokens_used=int(mask.sum()))


QUESTION = "How do I get my money back?"
SENTENCES = [
    "Cats sleep most of the day.",
    "Our shop opens at nine in the morning.",
    "Refunds are paid within fourteen days.",
    "It will rain in the mountains tomorrow.",
    "You can return goods that you do not want.",
]


async def main() -> None:
    """Serves, asks, and prints the sentences, nearest first."""
    async with (
        iicp.Directory.loopback() as mesh,
        iicp.serve(embed, intents=[iicp.EMBEDDING], models=["all-MiniLM-L6-v2"], directory=mesh.url),
        iicp.Client(directory=mesh.url) as client,
    ):
        reply = await client.embed([QUESTION, *SENTENCES], model="all-MiniLM-L6-v2")
        asked, *vectors = np.array(reply.vectors)
        for likeness, sentence in sorted(zip(vectors @ asked, SENTENCES, strict=True), reverse=True):
            print(f"{likeness:5.2f}  {sentence}")


asyncio.run(main())
