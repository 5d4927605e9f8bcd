//! Case table, stage, runners, interop and benches of iicp-core.
