//! How much of a node is given to others at which time of the day.

use crate::options::AvailabilityWindow;

/// What is given outside of all windows.
const OTHERWISE: f64 = 0.5;

/// The times of a day, and the share of each.
#[derive(Debug)]
pub(crate) struct Availability(Vec<(u16, u16, f64)>);

impl Availability {
    /// Takes windows that were checked.
    pub(crate) fn new(windows: &[AvailabilityWindow]) -> Self {
        let window = |window: &AvailabilityWindow| window.minutes().map(|(from, to)| (from, to, window.share));
        Availability(windows.iter().filter_map(window).collect())
    }

    /// Whether it is the same all day.
    pub(crate) fn is_constant(&self) -> bool {
        self.0.is_empty()
    }

    /// How many tasks of `most` are let in at this minute of the day. The first window that fits counts; a share that is
    /// not 0 is at least one task.
    pub(crate) fn limit(&self, most: usize, minute: u16) -> usize {
        if self.0.is_empty() {
            return most;
        }
        let fits = |&&(from, to, _): &&(u16, u16, f64)| {
            if from <= to { (from..=to).contains(&minute) } else { minute >= from || minute <= to }
        };
        let share = self.0.iter().find(fits).map_or(OTHERWISE, |&(_, _, share)| share);
        if share <= 0.0 {
            return 0;
        }
        // At most 256 tasks, and a share of at most 1.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let limit = (most as f64 * share).floor() as usize;
        limit.clamp(1, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(of: &[(&str, &str, f64)]) -> Availability {
        let window = |&(start, end, share): &(&str, &str, f64)| AvailabilityWindow {
            start: start.into(),
            end: end.into(),
            share,
        };
        Availability::new(&of.iter().map(window).collect::<Vec<_>>())
    }

    #[test]
    fn without_windows_everything_is_given_and_outside_of_them_half() {
        assert_eq!(windows(&[]).limit(8, 0), 8);
        let day = windows(&[("08:00", "17:59", 0.25)]);
        let at = |hour: u16, minute: u16| day.limit(8, hour * 60 + minute);
        assert_eq!((at(7, 59), at(8, 0), at(17, 59), at(18, 0)), (4, 2, 2, 4), "both ends belong to it");
    }

    #[test]
    fn a_window_goes_over_midnight_and_the_first_that_fits_counts() {
        let night = windows(&[("22:00", "06:00", 1.0), ("00:00", "23:59", 0.0)]);
        let at = |hour: u16, minute: u16| night.limit(4, hour * 60 + minute);
        assert_eq!((at(21, 59), at(22, 0), at(0, 0), at(6, 0), at(6, 1)), (0, 4, 4, 4, 0));
    }

    #[test]
    fn a_share_is_rounded_down_but_not_to_nothing() {
        let all_day = |share| windows(&[("00:00", "23:59", share)]);
        let limits: Vec<usize> = [0.0, 0.01, 0.49, 0.5, 0.99, 1.0].map(|share| all_day(share).limit(4, 700)).to_vec();
        assert_eq!(limits, [0, 1, 1, 2, 3, 4]);
        assert_eq!(all_day(0.1).limit(1, 700), 1);
    }
}
