// The application's own ranking: the core asks by an event, and waits for the answer.

import { Context } from "./context.js";
import { fromThrown } from "./errors.js";
import { type Options, camelKeys, optionsJson } from "./json.js";
import { native } from "./native.js";

/** What a ranker is told of one candidate. */
export interface CandidateEvidence {
  /** The name under which a choice names the candidate: a digest, not the node's id. */
  readonly candidateRef: string;
  /** Models that the node serves. */
  readonly models: readonly string[];
  /** The directory's score, 0 to 1. */
  readonly directoryScore: number;
  /** Share of the node's slots in use, 0 to 1; 0 if nobody says. */
  readonly load: number;
  /** How well the node is, in the directory's words. */
  readonly healthLabel?: string;
  /** Whether the directory has reached the node itself. */
  readonly directoryObservedReachable?: boolean;
  /** Always `iicp-candidate-evidence-v0`. */
  readonly schemaVersion: string;
}

/** What a ranker is asked: who could serve a task, without anything by which a node or a prompt could be told. */
export interface RankRequest {
  /** Names the task: the same for every question about it. */
  readonly requestRef: string;
  /** The intent of the task. */
  readonly intent: string;
  /** The candidates, in the order in which they would be asked. */
  readonly candidates: readonly CandidateEvidence[];
}

/** A ranker's answer. */
export interface RankChoice {
  /** The candidate to be asked first. */
  candidateRef: string;
  /** Which policy chose; it is named in the receipt. 1 to 64 ASCII letters, digits, dots, dashes or underscores. */
  policyId: string;
  /** Why: because it is the best, or to learn about it. */
  mode: "normal" | "exploration";
}

/** What a ranker is given besides the request. */
export interface RankContext {
  /** Fires when the call ended before the ranker answered: cancelled, closed or out of time. */
  readonly signal: AbortSignal;
}

/**
 * Chooses the candidate to be asked first, or keeps the built-in order with `null`; may return a promise of it. It sees
 * only candidates that every rule has let through. What it throws refuses the task before anything is sent, and so does
 * a choice of what is no candidate: the call fails with `RANKER_REFUSED`.
 */
export type Ranker = (
  request: RankRequest,
  context: RankContext,
) => RankChoice | null | undefined | PromiseLike<RankChoice | null | undefined>;

interface CoreRequest {
  request_ref: string;
  intent: string;
  candidates: object[];
}

const CHOICE: Options = {
  what: "a ranker's choice",
  names: new Map([
    ["candidateRef", "candidate_ref"],
    ["policyId", "policy_id"],
    ["mode", "mode"],
  ]),
};

/** One question to a ranker. */
export class Ranking {
  /** Why the task was refused, as the ranker threw it. */
  refusal: unknown;
  readonly #context = new Context("the ranking");
  #open = true;

  constructor(ranker: Ranker, operation: string, request: unknown) {
    void this.#ask(ranker, operation, request as CoreRequest);
  }

  /** The call ended. The ranker is told if it still thinks, and nobody hears what it says. */
  end(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#context.cancel();
  }

  /** Never rejects. */
  async #ask(ranker: Ranker, operation: string, request: CoreRequest): Promise<void> {
    let answer: string;
    try {
      const choice = await ranker(readRequest(request), this.#context);
      answer = choice === null || choice === undefined ? "" : optionsJson(CHOICE, choice);
    } catch (error) {
      this.refusal = error;
      answer = JSON.stringify({ error: messageOf(error) });
    }
    if (!this.#open) return;
    this.#open = false;
    try {
      native().rankFinish(operation, answer);
    } catch (thrown) {
      // No choice at all, and the core has refused the task; or it came too late, and nobody will ask.
      this.refusal = fromThrown(thrown);
    }
  }
}

function readRequest({ request_ref: requestRef, intent, candidates }: CoreRequest): RankRequest {
  return { requestRef, intent, candidates: candidates.map((candidate) => camelKeys(candidate) as CandidateEvidence) };
}

function messageOf(error: unknown): string {
  if (typeof error === "string") return error;
  const message = (error as { message?: unknown } | null | undefined)?.message;
  return typeof message === "string" ? message : "it threw what is no error";
}
