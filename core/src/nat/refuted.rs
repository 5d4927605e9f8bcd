//! Places at which the directory did not find the node: left out for a while, then tried again, since whoever runs the network
//! may have opened them meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// For how long a place is left out; twice as long each time that it is refuted again.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(1_800);
/// Places that are known at the same time; beyond that, the oldest is forgotten.
const MOST: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Refuted(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    place: SocketAddr,
    pause: Duration,
    until: Instant,
}

impl Refuted {
    pub(super) fn add(&mut self, place: SocketAddr, now: Instant) {
        // Who was not refuted for so long was found meanwhile.
        self.0.retain(|entry| now < entry.until + LONGEST);
        let before = self.0.iter().position(|entry| entry.place == place).map(|at| self.0.remove(at));
        let pause = before.map_or(FIRST, |entry| (entry.pause * 2).min(LONGEST));
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Entry { place, pause, until: now + pause });
    }

    /// Places that need not be tried yet.
    pub(super) fn at(&self, now: Instant) -> Vec<SocketAddr> {
        self.0.iter().filter(|entry| now < entry.until).map(|entry| entry.place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::directory_client::DirectoryClient;
    use crate::nat::surroundings::Surroundings;
    use crate::nat::{Ladder, Standing};
    use crate::options::NatOptions;
    use crate::transport::http_client::HttpClient;

    /// A directory that looks at nobody before it is registered.
    async fn blind() -> DirectoryClient {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ =
                    stream.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        DirectoryClient::new(HttpClient::new().unwrap(), &url).unwrap()
    }

    #[tokio::test]
    async fn who_opens_the_port_is_found_without_a_restart() {
        let listening = place(1);
        let ladder = Ladder::new(NatOptions::default(), listening, Some(blind().await), None).unwrap();
        let std::net::IpAddr::V4(ip) = listening.ip() else { unreachable!() };
        let around = Surroundings { public4: Some(ip), ..Surroundings::default() };
        let standing = Standing::default();
        let found = ladder.climb(&around, &standing.refuted()).await;
        assert_eq!(found.path.as_ref().and_then(|path| path.place), Some(listening));
        standing.publish(found.path.as_ref(), found.report);
        standing.refute();
        let found = ladder.climb(&around, &standing.refuted()).await;
        assert_eq!(found.path, None);
        assert!(found.report.to_string().contains("tried again"), "{}", found.report);
        standing.publish(None, found.report);
        tokio::time::pause();
        tokio::time::advance(FIRST).await;
        tokio::time::resume();
        let found = ladder.climb(&around, &standing.refuted()).await;
        assert_eq!(found.path.and_then(|path| path.place), Some(listening));
    }

    fn place(n: u8) -> SocketAddr {
        ([5, 5, 10, n], 9484).into()
    }

    #[test]
    fn a_refuted_place_is_tried_again_after_pauses_that_grow_to_half_an_hour() {
        let (mut refuted, mut now) = (Refuted::default(), Instant::now());
        for minutes in [1, 2, 4, 8, 16, 30, 30] {
            refuted.add(place(1), now);
            let until = now + Duration::from_secs(minutes * 60);
            assert_eq!(refuted.at(until - Duration::from_secs(1)), [place(1)], "before {minutes} min are over");
            assert_eq!(refuted.at(until), [], "after {minutes} min");
            now = until;
        }
    }

    #[test]
    fn several_places_are_left_out_at_the_same_time_and_no_more_than_a_few() {
        let (mut refuted, now) = (Refuted::default(), Instant::now());
        (0..20).for_each(|n| refuted.add(place(n), now));
        assert_eq!(refuted.at(now), (12..20).map(place).collect::<Vec<_>>());
    }
}
