//! How long something must not be done again, also by a process that comes after this one.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{open_folder, write_file};

const FOLDER: &str = "pauses";
/// No pause is longer: one that is was written under a clock that was wrong.
const LONGEST: Duration = Duration::from_secs(3_600);

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is left of a pause. None that was kept, or can be read, is none.
pub(crate) fn pause_left(state_dir: &Path, name: &str) -> Duration {
    let kept = std::fs::read_to_string(state_dir.join(FOLDER).join(name)).ok();
    let until = kept.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default();
    Some(Duration::from_secs(until.saturating_sub(unix_s()))).filter(|left| *left <= LONGEST).unwrap_or_default()
}

/// Keeps a pause that begins now. On a disk that takes nothing it ends with the process.
pub(crate) fn keep_pause(state_dir: &Path, name: &str, lasts: Duration) {
    let until = unix_s().saturating_add(lasts.as_secs()).to_string();
    let kept = open_folder(state_dir, FOLDER).and_then(|folder| write_file(&folder, name, until.as_bytes()));
    if let Err(error) = kept {
        tracing::debug!(target: crate::telemetry::NODE, name, kind = %error.kind(), "a pause could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_outlives_the_process_and_no_wrong_clock_makes_it_endless() {
        let folder = std::env::temp_dir().join(format!("iicp-pause-{}", std::process::id()));
        assert_eq!(pause_left(&folder, "a"), Duration::ZERO);
        keep_pause(&folder, "a", Duration::from_secs(100));
        assert!((90..=100).contains(&pause_left(&folder, "a").as_secs()));
        assert_eq!(pause_left(&folder, "b"), Duration::ZERO);
        keep_pause(&folder, "a", Duration::from_secs(100_000));
        assert_eq!(pause_left(&folder, "a"), Duration::ZERO);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
