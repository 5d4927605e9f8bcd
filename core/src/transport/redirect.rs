//! Which redirects are followed.

use url::Url;

use super::guard::{self, Reach};

/// Most hops of one call.
const MOST_HOPS: u8 = 3;

/// Which redirects a call follows. Only 307 and 308 ever are: the others would change the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirects {
    None,
    /// To the same scheme, host and port: with everything that the first request had.
    SameOrigin,
    /// To another origin too, without credentials and never from https to http. Only for what has no body.
    Anywhere,
}

/// One place on the way of a call.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) url: Url,
    pub(crate) reach: Reach,
    /// Whether this is still the origin that the call was meant for; once left, it does not come back.
    pub(crate) same_origin: bool,
    hops: u8,
}

impl Hop {
    pub(crate) fn first(url: Url, reach: Reach) -> Self {
        Hop { url, reach, same_origin: true, hops: 0 }
    }

    /// Where an answer leads, if it is followed. The new place is still to be judged.
    pub(crate) fn follow(&self, redirects: Redirects, status: u16, location: Option<&[u8]>) -> Option<Hop> {
        if redirects == Redirects::None || !matches!(status, 307 | 308) || self.hops >= MOST_HOPS {
            return None;
        }
        let location = std::str::from_utf8(location?).ok()?;
        let mut url = guard::without_trailing_dot(self.url.join(location).ok()?)?;
        url.set_fragment(None);
        let is_plain = url.username().is_empty() && url.password().is_none();
        if !is_plain || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let hops = self.hops + 1;
        if is_same_origin(&self.url, &url) {
            return Some(Hop { url, reach: self.reach, same_origin: self.same_origin, hops });
        }
        let is_downgrade = self.url.scheme() == "https" && url.scheme() == "http";
        if redirects == Redirects::SameOrigin || is_downgrade {
            return None;
        }
        Some(Hop { url, reach: self.reach_beyond(), same_origin: false, hops })
    }

    /// A public origin must not lead into private space; one that is private itself may lead to its neighbours.
    fn reach_beyond(&self) -> Reach {
        match guard::judge_url(&self.url, Reach::Public) {
            Ok(()) => Reach::Public,
            Err(_) => self.reach,
        }
    }
}

fn is_same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}
