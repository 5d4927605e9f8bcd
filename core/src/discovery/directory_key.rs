//! The key that a directory signs with: fetched when it is first needed, and again when it, or the directory's clock as it is
//! known here, no longer fits.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use super::directory_client::DirectoryClient;
use crate::crypto::ticket::TicketFault;
use crate::error::{Code, Error, Result};

/// Whatever fails to verify, a key is asked for again no more often than this in the long run,
const KEY_PAUSE: Duration = Duration::from_secs(10);
/// and at most this often in a row: a key that has just been changed is noticed at once.
const KEY_BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

#[derive(Clone, Copy)]
struct Key {
    bytes: [u8; 32],
    since: Instant,
}

/// Holds the key of one directory.
pub(crate) struct DirectoryKey {
    directory: DirectoryClient,
    held: Mutex<Option<Key>>,
    fetching: tokio::sync::Mutex<()>,
    again: DefaultDirectRateLimiter,
    /// When it last could not be had.
    missed: Mutex<Option<Instant>>,
    /// How long it is not asked for again then.
    missed_for: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DirectoryKey {
    /// Asks every time that a key is needed and there is none.
    pub(crate) fn new(directory: DirectoryClient) -> Self {
        Self::patient(directory, Duration::ZERO)
    }

    /// Asks once in `missed_for` while the directory does not give it: for those whose peers choose when a key is needed.
    pub(crate) fn patient(directory: DirectoryClient, missed_for: Duration) -> Self {
        let (held, missed) = (Mutex::default(), Mutex::default());
        // A pause of zero, which this is not, would be the one without a quota.
        let quota = Quota::with_period(KEY_PAUSE).unwrap_or(Quota::per_minute(KEY_BURST)).allow_burst(KEY_BURST);
        let (fetching, again) = (tokio::sync::Mutex::default(), RateLimiter::direct(quota));
        DirectoryKey { directory, held, fetching, again, missed, missed_for }
    }

    pub(crate) fn directory(&self) -> &DirectoryClient {
        &self.directory
    }

    /// Checks with the key that is held and the time by the directory's clock, and once more with fresh ones if they do not fit:
    /// keys change, and clocks are set.
    ///
    /// # Errors
    /// `DIRECTORY_UNREACHABLE` and other 3xxx while no key is known at all.
    pub(crate) async fn check<T>(
        &self,
        check: impl Fn(&[u8; 32], u64) -> Result<T, TicketFault>,
        deadline: Instant,
    ) -> Result<Result<T, TicketFault>> {
        let key = self.key(None, deadline).await?;
        let now = self.directory.now_unix_s();
        match check(&key.bytes, now) {
            Err(fault) if fault.may_be_the_judges() => Ok(match self.key(Some(key), deadline).await {
                Ok(newer) if newer.since != key.since => check(&newer.bytes, self.directory.now_unix_s()),
                _ => Err(fault),
            }),
            settled => Ok(settled),
        }
    }

    /// The directory's key, one caller at a time; another than `old` if there is one and it is time to ask.
    async fn key(&self, old: Option<Key>, deadline: Instant) -> Result<Key> {
        let late = || Error::new(Code::DirectoryUnreachable, "the directory's key did not arrive in time");
        let held = || (*lock(&self.held)).filter(|key| old.is_none_or(|old| old.since != key.since));
        let missed = || lock(&self.missed).is_some_and(|missed| missed.elapsed() < self.missed_for);
        if let Some(key) = held() {
            return Ok(key);
        }
        if missed() {
            return Err(late());
        }
        let _turn = tokio::time::timeout_at(deadline, self.fetching.lock()).await.map_err(|_| late())?;
        if let Some(key) = held() {
            return Ok(key);
        }
        if missed() {
            return Err(late());
        }
        if let Some(old) = old
            && self.again.check().is_err()
        {
            return Ok(old);
        }
        // A caller that goes away meanwhile has asked as well.
        let missing = Missing { missed: &self.missed, fetched: false };
        let bytes = self.directory.key(deadline).await?;
        missing.end();
        let key = Key { bytes, since: Instant::now() };
        *lock(&self.held) = Some(key);
        Ok(key)
    }
}

/// Notes on drop that the key could not be had.
struct Missing<'a> {
    missed: &'a Mutex<Option<Instant>>,
    fetched: bool,
}

impl Missing<'_> {
    fn end(mut self) {
        self.fetched = true;
        *lock(self.missed) = None;
    }
}

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        if !self.fetched {
            *lock(self.missed) = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::transport::http_client::HttpClient;

    /// Somebody who takes connections, counts them and says nothing.
    async fn mute() -> (DirectoryClient, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        (DirectoryClient::new(HttpClient::new().unwrap(), &url).unwrap(), asked)
    }

    async fn misses(key: &DirectoryKey) {
        let checked = key.check(|_, _| Ok(()), Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(checked.unwrap_err().code(), Code::DirectoryUnreachable);
    }

    #[tokio::test]
    async fn a_directory_without_a_key_is_left_alone_for_a_while_by_who_is_patient() {
        let (directory, asked) = mute().await;
        let key = DirectoryKey::patient(directory.clone(), Duration::from_secs(3_600));
        misses(&key).await;
        let once = asked.load(Ordering::SeqCst);
        for _ in 0..5 {
            misses(&key).await;
        }
        assert!(once > 0 && asked.load(Ordering::SeqCst) == once, "asked again");
        misses(&DirectoryKey::new(directory)).await;
        assert!(asked.load(Ordering::SeqCst) > once, "another one asks for itself");
    }
}
