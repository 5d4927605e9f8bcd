// The client: discover, submit, chat.

import { types } from "node:util";

import { failure, fromThrown } from "./errors.js";
import {
  type Chat,
  CHAT_NAMES,
  CLIENT_NAMES,
  type ClientOptions,
  Code,
  type Completion,
  COMPLETION_NAMES,
  type Discover,
  DISCOVER_NAMES,
  type Embedding,
  EMBEDDING_NAMES,
  Inference,
  type Moderation,
  MODERATION_NAMES,
  type Speech,
  SPEECH_NAMES,
  TASK_NAMES,
  type TaskOptions,
  type Transcription,
  TRANSCRIPTION_NAMES,
} from "./generated.js";
import { type Options, encode, onlyKnown, optionsJson } from "./json.js";
import { type CallOptions, engine, settled, start } from "./loop.js";
import { native } from "./native.js";
import type { Ranker } from "./ranker.js";
import {
  type ChatReply,
  type CompletionReply,
  type EmbeddingReply,
  type ModerationReply,
  type NodeInfo,
  type SpeechReply,
  type TaskResult,
  type TranscriptionReply,
  readChat,
  readCompletion,
  readEmbedding,
  readModeration,
  readNodes,
  readSpeech,
  readStream,
  readTask,
  readTranscription,
} from "./replies.js";
import { type TaskStream, stream } from "./stream.js";

const CLIENT: Options = { what: "a client", names: CLIENT_NAMES };
const DISCOVER: Options = { what: "a discovery", names: DISCOVER_NAMES };
const TASK: Options = { what: "a task", names: TASK_NAMES, except: "payload" };
const CHAT: Options = { what: "a chat", names: CHAT_NAMES };
const MESSAGE: Options = { ...CHAT, except: "signal" };
const COMPLETION: Options = { what: "a completion", names: COMPLETION_NAMES, except: "signal" };
const EMBEDDING: Options = { what: "an embedding", names: EMBEDDING_NAMES, except: "signal" };
const TRANSCRIPTION: Options = { what: "a transcription", names: TRANSCRIPTION_NAMES, except: "signal" };
const SPEECH: Options = { what: "a speech", names: SPEECH_NAMES, except: "signal" };
const MODERATION: Options = { what: "a moderation", names: MODERATION_NAMES, except: "signal" };
const NO_SOUND = new Uint8Array(0);

/** A task: its options and its payload. */
export interface Task extends TaskOptions {
  /** Any value that has a JSON form. A `Uint8Array` is taken as JSON text and passed on as it is. */
  payload: unknown;
}

/** What a chat may be given besides its messages. */
export interface ChatOptions extends Omit<Chat, "messages">, CallOptions {}

/** What a completion may be given besides its text. */
export interface CompleteOptions extends Omit<Completion, "prompt">, CallOptions {}

/** What an embedding may be given besides its texts. */
export interface EmbedOptions extends Omit<Embedding, "input">, CallOptions {}

/** What a transcription may be given besides its sound. */
export interface TranscribeOptions extends Omit<Transcription, "audio">, CallOptions {}

/** What a speech may be given besides its text. */
export interface SpeakOptions extends Omit<Speech, "input">, CallOptions {}

/** What a moderation may be given besides its texts. */
export interface ModerateOptions extends Omit<Moderation, "input">, CallOptions {}

/** What a client may be given besides its options. */
export interface ClientHooks {
  /** Asked before every task which candidate goes first. */
  ranker?: Ranker | undefined;
}

/** A client that was forgotten without `close`. */
const forgotten = new FinalizationRegistry<string>((client) => {
  try {
    native().clientClose(client);
  } catch {
    // Gone with its engine.
  }
});

/** Finds nodes and sends them tasks. Cheap to keep and made to be shared; an idle one keeps no process alive. */
export class Client {
  readonly #id: string;
  readonly #ranker: Ranker | undefined;
  #closed: Promise<void> | undefined;

  /** Nothing is sent before the first call. */
  constructor(options: ClientOptions = {}, hooks: ClientHooks = {}) {
    onlyKnown("the second argument of a client", hooks, "ranker");
    this.#ranker = hooks.ranker;
    if (this.#ranker !== undefined && typeof this.#ranker !== "function") {
      throw failure(Code.INVALID_ARG, "the ranker of a client must be a function");
    }
    const json = optionsJson(CLIENT, options, { external_ranker: this.#ranker && true });
    try {
      this.#id = engine().native.clientNew(json);
    } catch (thrown) {
      throw fromThrown(thrown);
    }
    forgotten.register(this, this.#id, this);
  }

  /** Asks the directory for nodes, best first. */
  discover(query: Discover, call?: CallOptions): Promise<NodeInfo[]> {
    return start<NodeInfo[]>(
      {
        entry: this.discover,
        owner: this,
        start: (native, queue, tag) =>
          native.discover(this.#open(), queue, optionsJson(DISCOVER, query), tag),
        read: readNodes,
      },
      call,
    );
  }

  /** Sends a task to the best node that serves its intent, and returns what that node's handler returned. */
  submit<R = unknown>(task: Task, call?: CallOptions): Promise<TaskResult<R>> {
    return start<TaskResult<R>>(
      {
        entry: this.submit,
        owner: this,
        ranker: this.#ranker,
        start: (native, queue, tag) => {
          const json = optionsJson(TASK, task);
          const payload = encode(task.payload, "the payload", Code.PAYLOAD_INVALID);
          return native.submit(this.#open(), queue, json, payload, tag);
        },
        read: readTask<R>,
      },
      call,
    );
  }

  /** Chats with a language model of the mesh: one user message and its options, or a whole conversation. */
  chat(message: string, options?: ChatOptions): Promise<ChatReply>;
  chat(chat: string | Chat, call?: CallOptions): Promise<ChatReply>;
  chat(chat: string | Chat, options?: ChatOptions): Promise<ChatReply> {
    return start<ChatReply>(
      {
        entry: this.chat,
        owner: this,
        ranker: this.#ranker,
        start: (native, queue, tag) => native.chat(this.#open(), queue, chatJson(chat, options), tag),
        read: readChat,
      },
      chatCall(chat, options),
    );
  }

  /**
   * A chat, or any task, whose result comes in parts: `for await (const chunk of client.stream("Hello")) …`. The task's time
   * is for the whole stream. Leaving the loop cancels the task at the provider. One that does not stream gives its whole
   * result as one part.
   */
  stream<R = unknown>(message: string, options?: ChatOptions): TaskStream<R>;
  stream<R = unknown>(ask: string | Chat | Task, call?: CallOptions): TaskStream<R>;
  stream<R = unknown>(ask: string | Chat | Task, options?: ChatOptions): TaskStream<R> {
    return stream<R>(
      {
        entry: this.stream,
        owner: this,
        ranker: this.#ranker,
        start: (native, queue, tag) => {
          if (typeof ask === "object" && ask !== null && "payload" in ask) {
            const json = optionsJson(TASK, ask);
            const payload = encode(ask.payload, "the payload", Code.PAYLOAD_INVALID);
            // Without a body it would be a chat; a blank is no JSON either.
            return native.stream(this.#open(), queue, json, payload.length === 0 ? " " : payload, tag);
          }
          return native.stream(this.#open(), queue, chatJson(ask, options), "", tag);
        },
        read: readStream,
      },
      chatCall(ask, options),
    );
  }

  /** Completes a text. */
  complete(prompt: string, options: CompleteOptions = {}): Promise<CompletionReply> {
    const ask = () => optionsJson(COMPLETION, options, { prompt });
    return this.#infer(this.complete, Inference.COMPLETION, ask, options, readCompletion);
  }

  /** Turns a text, or several, into vectors. */
  embed(input: string | readonly string[], options: EmbedOptions = {}): Promise<EmbeddingReply> {
    const ask = () => optionsJson(EMBEDDING, options, { input });
    return this.#infer(this.embed, Inference.EMBEDDING, ask, options, readEmbedding);
  }

  /** Writes down what is said in a sound file. */
  transcribe(audio: Uint8Array, options: TranscribeOptions = {}): Promise<TranscriptionReply> {
    const ask = () => {
      if (!types.isUint8Array(audio)) throw failure(Code.INVALID_ARG, "transcribe takes the sound file as a Uint8Array");
      // Refused among the options, and left out of them: the bytes go beside.
      return optionsJson(TRANSCRIPTION, options, { audio: undefined });
    };
    return this.#infer(this.transcribe, Inference.TRANSCRIPTION, ask, options, readTranscription, audio);
  }

  /** Speaks a text. */
  speak(input: string, options: SpeakOptions = {}): Promise<SpeechReply> {
    const ask = () => optionsJson(SPEECH, options, { input });
    return this.#infer(this.speak, Inference.SPEECH, ask, options, readSpeech);
  }

  /** Judges a text, or several. */
  moderate(input: string | readonly string[], options: ModerateOptions = {}): Promise<ModerationReply> {
    const ask = () => optionsJson(MODERATION, options, { input });
    return this.#infer(this.moderate, Inference.MODERATION, ask, options, readModeration);
  }

  #infer<T>(
    entry: Function,
    kind: number,
    ask: () => string,
    options: CallOptions,
    read: (json: never, body: unknown) => T,
    sound: Uint8Array = NO_SOUND,
  ): Promise<T> {
    return start<T>(
      {
        entry,
        owner: this,
        ranker: this.#ranker,
        start: (native, queue, tag) => native.infer(this.#open(), queue, kind, ask(), sound, tag),
        read,
      },
      // Options that are none are refused with their own words.
      { signal: (options as CallOptions | null)?.signal },
    );
  }

  /** Closes the client. What it is doing ends with `CLOSED`; resolved when all of it has ended. */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      forgotten.unregister(this);
      try {
        native().clientClose(this.#id);
      } catch {
        // Gone with its engine.
      }
      this.#closed = settled(this);
    }
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #open(): string {
    if (this.#closed !== undefined) throw failure(Code.CLOSED, "the client was closed; make a new one");
    return this.#id;
  }
}

/** A message has its options beside it, a conversation among its own. */
function chatJson(chat: string | Chat, options: ChatOptions = {}): string {
  if (typeof chat !== "string") return optionsJson(CHAT, chat);
  return optionsJson(MESSAGE, options, { messages: [{ role: "user", content: chat }] });
}

/** Of the options of a message, those of the call; the others, and options that are none, `chatJson` looks at. */
function chatCall(chat: unknown, options: ChatOptions | undefined): CallOptions | undefined {
  if (typeof chat !== "string" || options === undefined) return options;
  return { signal: (options as CallOptions | null)?.signal };
}
