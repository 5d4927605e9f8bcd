//! In which order candidates are asked: one is chosen by the strategy, and every other one stands in for it, in the
//! directory's order. Chance comes in as an argument.

use crate::options::{ClientOptions, RoutingStrategy};

/// What a strategy looks at. Both numbers are the directory's statement and may be anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) score: f64,
    /// Share of the node's slots in use; 0 if the directory does not say.
    pub(crate) load: f64,
}

/// A strategy with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Strategy {
    pub(crate) kind: RoutingStrategy,
    pub(crate) epsilon: f64,
    pub(crate) top_k: usize,
    pub(crate) tau: f64,
}

impl Strategy {
    pub(crate) fn of(options: &ClientOptions) -> Self {
        Strategy {
            kind: options.routing_strategy,
            epsilon: options.routing_epsilon,
            top_k: options.routing_top_k as usize,
            tau: options.routing_softmax_tau,
        }
    }
}

/// The order in which to ask the candidates, as their places; each comes once. `random` gives numbers from 0 to 1.
pub(crate) fn order(strategy: &Strategy, candidates: &[Candidate], random: &mut impl FnMut() -> f64) -> Vec<usize> {
    let pool = &candidates[..strategy.top_k.max(1).min(candidates.len())];
    let chosen = match strategy.kind {
        _ if candidates.len() < 2 => 0,
        RoutingStrategy::Deterministic => 0,
        RoutingStrategy::Epsilon if share(random()) < strategy.epsilon => uniform(candidates.len(), random()),
        RoutingStrategy::Epsilon => 0,
        RoutingStrategy::SoftmaxTopK => {
            let best = pool.iter().map(|c| tame(c.score)).fold(0.0, f64::max);
            let tau = if strategy.tau.is_finite() { strategy.tau.max(0.001) } else { 0.001 };
            weighted(pool.iter().map(|c| ((tame(c.score) - best) / tau).exp()), random())
        }
        RoutingStrategy::WeightedV1 => {
            weighted(pool.iter().map(|c| tame(c.score).max(0.01) / (1.0 + busy(c.load))), random())
        }
    };
    let rest = (0..candidates.len()).filter(|at| *at != chosen);
    candidates.get(chosen).map(|_| chosen).into_iter().chain(rest).collect()
}

/// A score that can be reckoned with.
fn tame(score: f64) -> f64 {
    if score.is_finite() { score.clamp(0.0, 1.0e9) } else { 0.0 }
}

/// A load that can be reckoned with; who reports nonsense gains nothing by it.
fn busy(load: f64) -> f64 {
    if load.is_nan() { 1.0 } else { load.clamp(0.0, 1.0) }
}

/// A random number below 1.
fn share(random: f64) -> f64 {
    if random.is_nan() { 0.0 } else { random.clamp(0.0, 0.999_999_999) }
}

fn uniform(count: usize, random: f64) -> usize {
    // A list of candidates is short, and a share is below 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (share(random) * count as f64) as usize;
    at.min(count.saturating_sub(1))
}

/// Walks along the weights until the random share of their sum is used up.
fn weighted(weights: impl Iterator<Item = f64> + Clone, random: f64) -> usize {
    let mut left = share(random) * weights.clone().sum::<f64>();
    let mut last = 0;
    for (at, weight) in weights.enumerate() {
        left -= weight;
        last = at;
        if left <= 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(kind: RoutingStrategy) -> Strategy {
        Strategy { kind, ..Strategy::of(&ClientOptions::default()) }
    }

    fn candidates(scores: &[f64]) -> Vec<Candidate> {
        scores.iter().map(|score| Candidate { score: *score, load: 0.0 }).collect()
    }

    fn with(strategy: &Strategy, candidates: &[Candidate], numbers: &[f64]) -> Vec<usize> {
        let mut numbers = numbers.iter();
        order(strategy, candidates, &mut || *numbers.next().unwrap())
    }

    const ALL: [RoutingStrategy; 4] = [
        RoutingStrategy::Deterministic,
        RoutingStrategy::Epsilon,
        RoutingStrategy::SoftmaxTopK,
        RoutingStrategy::WeightedV1,
    ];

    #[test]
    fn every_candidate_comes_once_whatever_numbers_are_fed() {
        let nonsense = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MAX, f64::MIN_POSITIVE];
        for kind in ALL {
            for count in 0..=nonsense.len() {
                let fed: Vec<Candidate> =
                    nonsense[..count].iter().map(|n| Candidate { score: *n, load: -*n }).collect();
                for number in nonsense {
                    let mut order = with(&strategy(kind), &fed, &[number; 2]);
                    order.sort_unstable();
                    assert_eq!(order, (0..count).collect::<Vec<_>>(), "{kind:?} {number}");
                }
            }
        }
    }

    #[test]
    fn epsilon_explores_all_and_else_keeps_the_directorys_order() {
        let (strategy, four) = (strategy(RoutingStrategy::Epsilon), candidates(&[0.9, 0.8, 0.7, 0.1]));
        assert_eq!(with(&strategy, &four, &[0.05]), [0, 1, 2, 3]);
        assert_eq!(with(&strategy, &four, &[0.049, 0.99]), [3, 0, 1, 2]);
        assert_eq!(with(&strategy, &four, &[0.0, 1.0]), [3, 0, 1, 2], "a random number of 1 is in range too");
        let never = Strategy { epsilon: 0.0, ..strategy };
        assert_eq!(with(&never, &four, &[0.0]), [0, 1, 2, 3]);
    }

    #[test]
    fn softmax_stays_in_its_pool_and_prefers_the_better() {
        let (strategy, four) = (strategy(RoutingStrategy::SoftmaxTopK), candidates(&[0.9, 0.86, 0.5, 0.9]));
        assert_eq!(with(&strategy, &four, &[0.0]), [0, 1, 2, 3]);
        // Weights 1, 1/e and next to nothing: the first has 73 of 100.
        assert_eq!(with(&strategy, &four, &[0.72])[0], 0);
        assert_eq!(with(&strategy, &four, &[0.74])[0], 1);
        assert_eq!(with(&strategy, &four, &[1.0])[0..2], [2, 0], "the fourth stands outside the pool");
    }

    #[test]
    fn a_load_counts_from_0_to_1_whatever_is_reported() {
        let strategy = strategy(RoutingStrategy::WeightedV1);
        let first = |load: f64, random: f64| {
            let two = [Candidate { score: 1.0, load }, Candidate { score: 1.0, load: 0.0 }];
            with(&strategy, &two, &[random])[0]
        };
        // At full load it has a third, idle a half.
        for load in [1.0, 4.0, f64::INFINITY, f64::NAN] {
            assert_eq!((first(load, 0.33), first(load, 0.34)), (0, 1), "{load}");
        }
        for load in [0.0, -0.9, f64::NEG_INFINITY] {
            assert_eq!((first(load, 0.49), first(load, 0.51)), (0, 1), "{load}");
        }
    }

    #[test]
    fn no_chance_is_asked_for_where_there_is_no_choice() {
        for kind in ALL {
            assert_eq!(with(&strategy(kind), &candidates(&[0.5]), &[]), [0], "{kind:?}");
        }
        assert_eq!(with(&strategy(RoutingStrategy::Deterministic), &candidates(&[0.1, 0.9]), &[]), [0, 1]);
    }
}
