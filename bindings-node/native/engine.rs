//! One engine for the process, made when the first environment needs it, shut down with the last one.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iicp_core::bridge::{Bridge, Doorbell, Spelling};
use iicp_core::options::{QueueOptions, RuntimeOptions};
use iicp_core::{Code, Error};
use napi::bindgen_prelude::{Env, Function};
use napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking;

/// How long the end of the last environment waits for what is under way.
const FAREWELL: Duration = Duration::from_secs(2);

struct Engine {
    bridge: Option<Bridge>,
    /// The queues of the environments that live.
    queues: Vec<u64>,
}

static ENGINE: Mutex<Engine> = Mutex::new(Engine { bridge: None, queues: Vec::new() });

fn engine() -> MutexGuard<'static, Engine> {
    ENGINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine as a JavaScript exception shows it: the facade reads the message.
pub(crate) fn thrown(error: &Error) -> napi::Error {
    napi::Error::from_reason(error.to_json_in(Spelling::Camel).to_string())
}

pub(crate) fn bridge() -> napi::Result<Bridge> {
    engine().bridge.clone().ok_or_else(|| {
        thrown(&Error::new(Code::Closed, "the library was shut down with its last environment; load it again"))
    })
}

pub(crate) fn open(env: Env, ring: Function<'_, (), ()>) -> napi::Result<u64> {
    // Room for one call: a bell that is still ringing need not be rung again.
    let ring = ring
        .build_threadsafe_function::<()>()
        .weak::<true>()
        .callee_handled::<false>()
        .max_queue_size::<1>()
        .build()?;
    let doorbell: Doorbell = Arc::new(move || {
        ring.call((), NonBlocking);
    });
    let queue = enter(doorbell).map_err(|e| thrown(&e))?;
    // Runs before the end of the bell, which was made earlier: nobody rings a bell that is gone.
    env.add_env_cleanup_hook(queue, leave)?;
    Ok(queue)
}

fn enter(doorbell: Doorbell) -> iicp_core::Result<u64> {
    let mut engine = engine();
    let bridge = match &engine.bridge {
        Some(bridge) => bridge.clone(),
        None => engine.bridge.insert(Bridge::new(RuntimeOptions::default())?).clone(),
    };
    let queue = bridge.queue_new(QueueOptions::default())?;
    engine.queues.push(queue);
    drop(engine);
    bridge.queue_on_wake(queue, Some(doorbell))?;
    Ok(queue)
}

/// Ends an environment's queue; the last one takes the engine with it. A second call does nothing.
pub(crate) fn leave(queue: u64) {
    let mut engine = engine();
    let before = engine.queues.len();
    engine.queues.retain(|other| *other != queue);
    if engine.queues.len() == before {
        return;
    }
    let last = if engine.queues.is_empty() { engine.bridge.take() } else { None };
    let bridge = last.clone().or_else(|| engine.bridge.clone());
    drop(engine);
    if let Some(bridge) = bridge {
        // Nobody is left to hear of a failure.
        let _ = bridge.queue_free(queue);
    }
    if let Some(last) = last {
        let _ = last.shutdown(FAREWELL);
    }
}
