//! What a clock tells of secrets.

use std::hint::black_box;
use std::time::Instant;

use iicp_core::measured::Kept;
use ring::rand::SecureRandom as _;

use super::{Figure, Row, Target};
use crate::Result;

pub(super) const ROWS: &[Row] = &[Row {
    name: "token_compare_t",
    unit: "",
    target: Target::AtMost(4.5),
    what: "Welch's t between the times in which a token that is right but for its last letter and random ones are refused \
           (1,000,000 of each in random order, the slowest tenth left out; above 4.5 a clock tells them apart)",
    measure: token_compare,
}];

const SAMPLES: usize = 1_000_000;
const TOKEN_BYTES: usize = 32;

/// Mean and variance as they grow.
#[derive(Default)]
struct Times {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Times {
    fn add(&mut self, time: f64) {
        self.count += 1.0;
        let off = time - self.mean;
        self.mean += off / self.count;
        self.squares += off * (time - self.mean);
    }

    fn variance_of_mean(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

fn token(random: &ring::rand::SystemRandom) -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    random.fill(&mut bytes).map_err(|_| "no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn token_compare() -> Result<Figure> {
    let random = ring::rand::SystemRandom::new();
    let right = token(&random)?;
    let kept = Kept::new(&right);
    let mut near = right[..right.len() - 1].to_owned();
    near.push(if right.ends_with('0') { '1' } else { '0' });
    // Many of both, so that the two classes differ in nothing but what they hold.
    let tokens: [Vec<String>; 2] =
        [vec![near; 256], (0..256).map(|_| token(&random)).collect::<Result<Vec<String>>>()?];
    let mut order = vec![0; 2 * SAMPLES];
    random.fill(&mut order).map_err(|_| "no randomness")?;
    let mut taken = Vec::with_capacity(order.len());
    for (n, drawn) in order.into_iter().enumerate() {
        let class = usize::from(drawn & 1);
        let shown = black_box(&tokens[class][n % 256]);
        let begun = Instant::now();
        let is = black_box(kept.is(shown));
        taken.push((class, begun.elapsed().as_nanos()));
        if is {
            return Err("a wrong token was taken".into());
        }
    }
    let mut sorted: Vec<u128> = taken.iter().map(|(_, nanos)| *nanos).collect();
    sorted.sort_unstable();
    let most = sorted[sorted.len() / 10 * 9];
    let mut times = [Times::default(), Times::default()];
    for (class, nanos) in taken.into_iter().filter(|(_, nanos)| *nanos <= most) {
        #[allow(clippy::cast_precision_loss)]
        times[class].add(nanos as f64);
    }
    let [near, far] = times;
    let t = (near.mean - far.mean) / (near.variance_of_mean() + far.variance_of_mean()).sqrt();
    Ok(Figure {
        value: t.abs(),
        seen: format!("{:.1} ns for the near one, {:.1} ns for random ones", near.mean, far.mean),
    })
}
