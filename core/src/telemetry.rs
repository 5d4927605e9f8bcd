//! Names of spans, events and metrics. The library emits; it never installs a subscriber.

/// Target of everything the client says.
pub const CLIENT: &str = "iicp::client";
/// Target of everything the serving node says.
pub const NODE: &str = "iicp::node";
/// Target of everything the embedded directory says.
pub const DIRECTORY: &str = "iicp::directory";
/// Target of everything relays and their workers say.
pub const RELAY: &str = "iicp::relay";
/// Target of everything that is said of the way by which a node is reached.
pub const NAT: &str = "iicp::nat";
/// Target of everything the transport says.
pub const TRANSPORT: &str = "iicp::transport";

/// Counter of finished tasks, by `status`, `intent` and `qos` (specification: METRICS-03).
pub const TASKS_TOTAL: &str = "iicp_tasks_total";
/// Histogram of the time from admission to answer, by `intent` and `qos` (specification: METRICS-04).
pub const TASK_LATENCY_MS: &str = "iicp_task_latency_ms";
/// Counter of tokens that handlers reported, by `intent` (specification: METRICS-06).
pub const TOKENS_USED_TOTAL: &str = "iicp_tokens_used_total";
/// Counter of heartbeats that the directory did not take, by `reason`.
pub const HEARTBEAT_FAILURES_TOTAL: &str = "iicp_heartbeat_failures_total";
/// Counter of requests for the credits of a task, by `outcome`.
pub const RECEIPTS_TOTAL: &str = "iicp_credit_receipts_total";
/// Gauge of handlers that run now.
pub const ACTIVE_JOBS: &str = "iicp_active_jobs";
/// Gauge of open connections.
pub const CONNECTIONS: &str = "iicp_connections";
/// Counter of connections cut because the peer was too slow, by `phase`.
pub const CONNECTIONS_CUT_TOTAL: &str = "iicp_connections_cut_total";
/// Counter of task ids that were forgotten early, because the replay memory was full.
pub const REPLAY_FORGOTTEN_TOTAL: &str = "iicp_replay_forgotten_total";
/// Workers that are bound at a relay, labelled by `way`.
pub const RELAY_WORKERS: &str = "iicp_relay_workers";
/// Calls that are under way through a relay.
pub const RELAY_CALLS: &str = "iicp_relay_calls";
/// Calls through a relay, labelled by `outcome`.
pub const RELAY_CALLS_TOTAL: &str = "iicp_relay_calls_total";
/// Bytes of tasks and answers through a relay, labelled by `direction`.
pub const RELAY_BYTES_TOTAL: &str = "iicp_relay_bytes_total";
/// Workers that came to a relay to be bound, labelled by `outcome`.
pub const RELAY_BINDS_TOTAL: &str = "iicp_relay_binds_total";
/// Gauge of a directory's nodes, by `state`: registered or active.
pub const DIRECTORY_NODES: &str = "iicp_directory_nodes";
/// Counter of a directory's answers, by `status`.
pub const DIRECTORY_ANSWERS_TOTAL: &str = "iicp_directory_answers_total";

/// Upper bounds of the latency histogram's buckets, in milliseconds (5000 is mandatory: METRICS-08).
pub const LATENCY_BUCKETS_MS: [u64; 9] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];
