"""Client, serving node and embedded directory for the IICP mesh.

``Client``, ``serve`` and ``Directory`` are for asyncio; :mod:`iicp_core.sync` has the same for programs without a loop.

Nothing happens at import: each part is loaded when it is first used, and the engine starts with the first client.
"""

from __future__ import annotations

from ._native import __version__

TYPE_CHECKING = False  # The one in `typing` costs more to import than this whole package.
if TYPE_CHECKING:
    from . import sync
    from ._client import Client
    from ._directory import Directory
    from ._errors import (
        ArgumentError,
        ConfigError,
        DeadlineError,
        DirectoryError,
        DirectoryUnreachableError,
        IicpError,
        LibraryError,
        Rejected,
        RelayError,
        ServingError,
        TaskError,
        TaskTimeoutError,
        TransportError,
    )
    from ._generated import (
        CHAT,
        COMPLETION,
        EMBEDDING,
        MODERATION,
        SPEECH,
        TRANSCRIPTION,
        AudioPart,
        BackendOptions,
        Chat,
        ChatMessage,
        ClientOptions,
        Code,
        Completion,
        ContentPart,
        DirectoryOptions,
        Discover,
        Embedding,
        ImagePart,
        ImageUrl,
        InputAudio,
        Moderation,
        NodeOptions,
        ProfileRequest,
        RouteConstraints,
        RoutingPolicy,
        Speech,
        TaskOptions,
        TextPart,
        Transcription,
    )
    from ._ranker import CandidateEvidence, RankChoice, Ranker, RankRequest
    from ._serve import Handler, Node, serve
    from ._stream import TaskStream
    from ._task import Inbound, Reply
    from ._types import (
        ChatReply,
        Chunk,
        CompletionReply,
        EmbeddingReply,
        Judgement,
        ModerationReply,
        NatInterface,
        NatReport,
        NatRung,
        NodeInfo,
        NodeStatus,
        RoutingReceipt,
        SpeechReply,
        StreamResult,
        TaskResult,
        Timings,
        TranscriptionReply,
        Usage,
    )

__all__ = [
    "CHAT",
    "COMPLETION",
    "EMBEDDING",
    "MODERATION",
    "SPEECH",
    "TRANSCRIPTION",
    "ArgumentError",
    "AudioPart",
    "BackendOptions",
    "CandidateEvidence",
    "Chat",
    "ChatMessage",
    "ChatReply",
    "Chunk",
    "Client",
    "ClientOptions",
    "Code",
    "Completion",
    "CompletionReply",
    "ConfigError",
    "ContentPart",
    "DeadlineError",
    "Directory",
    "DirectoryError",
    "DirectoryOptions",
    "DirectoryUnreachableError",
    "Discover",
    "Embedding",
    "EmbeddingReply",
    "Handler",
    "IicpError",
    "ImagePart",
    "ImageUrl",
    "Inbound",
    "InputAudio",
    "Judgement",
    "LibraryError",
    "Moderation",
    "ModerationReply",
    "NatInterface",
    "NatReport",
    "NatRung",
    "Node",
    "NodeInfo",
    "NodeOptions",
    "NodeStatus",
    "ProfileRequest",
    "RankChoice",
    "RankRequest",
    "Ranker",
    "Rejected",
    "RelayError",
    "Reply",
    "RouteConstraints",
    "RoutingPolicy",
    "RoutingReceipt",
    "ServingError",
    "Speech",
    "SpeechReply",
    "StreamResult",
    "TaskError",
    "TaskOptions",
    "TaskResult",
    "TaskStream",
    "TaskTimeoutError",
    "TextPart",
    "Timings",
    "Transcription",
    "TranscriptionReply",
    "TransportError",
    "Usage",
    "__version__",
    "serve",
    "sync",
]

if not TYPE_CHECKING:
    # Cheapest first; a name is looked for in the parts in this order.
    _PARTS = ("_generated", "_errors", "_types", "_task", "_stream", "_client", "_directory", "_serve", "_ranker")

    def __getattr__(name):
        if name in __all__:
            from importlib import import_module

            if name == "sync":
                return import_module(".sync", __name__)
            for part in _PARTS:
                found = getattr(import_module(f".{part}", __name__), name, None)
                # What a part has only imported is found where it was made.
                if found is not None:
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return __all__
