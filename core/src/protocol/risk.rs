//! Intents that are refused before anything is sent: the specification's table of risks, version 2026-07-09.
//!
//! A rule applies to an intent that has one of its fragments in it, in whatever case. The table's third category asks for
//! a notice and refuses nothing, so it is not here.

use std::sync::LazyLock;

use crate::error::{Code, Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Category {
    /// Never.
    Prohibited,
    /// Not without a private compliance profile, which this client has none of.
    HighRisk,
}

struct Rule {
    id: &'static str,
    category: Category,
    fragments: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        id: "eu-ai-act-social-scoring",
        category: Category::Prohibited,
        fragments: &["social-scoring", "social_scoring", "social:scoring"],
    },
    Rule {
        id: "eu-ai-act-criminal-risk",
        category: Category::Prohibited,
        fragments: &["criminal-risk", "criminal_risk", "criminal:risk", "predict-crime"],
    },
    Rule {
        id: "eu-ai-act-workplace-education-emotion",
        category: Category::Prohibited,
        fragments: &[
            "emotion:workplace",
            "emotion:education",
            "workplace-monitoring",
            "education-monitoring",
            "worker-monitoring",
        ],
    },
    Rule {
        id: "eu-ai-act-protected-trait-biometric",
        category: Category::Prohibited,
        fragments: &["protected-trait", "protected_trait", "biometric:protected"],
    },
    Rule {
        id: "eu-ai-act-untargeted-face-scraping",
        category: Category::Prohibited,
        fragments: &["untargeted-scraping", "untargeted_scraping", "face-scraping", "facial-scraping"],
    },
    Rule {
        id: "eu-ai-act-realtime-remote-biometric-id",
        category: Category::Prohibited,
        fragments: &["remote-biometric:realtime", "realtime-remote-biometric", "real-time-remote-biometric"],
    },
    Rule {
        id: "eu-ai-act-nonconsensual-sexual-deepfake",
        category: Category::Prohibited,
        fragments: &["nonconsensual-sexual", "non-consensual-sexual", "child-sexual-abuse", "csam"],
    },
    Rule {
        id: "eu-ai-act-employment-workforce",
        category: Category::HighRisk,
        fragments: &[
            "employment:hiring",
            "employment:screen",
            "employment:rank",
            "recruitment:decision",
            "workforce:decision",
            "worker-management",
            "worker:performance",
            "worker:discipline",
        ],
    },
    Rule {
        id: "eu-ai-act-education-admission-grading",
        category: Category::HighRisk,
        fragments: &[
            "education:admission",
            "education:grading",
            "education:grade",
            "student:admission",
            "student:assess",
            "exam-grading",
        ],
    },
    Rule {
        id: "eu-ai-act-credit-essential-services",
        category: Category::HighRisk,
        fragments: &[
            "credit-scoring",
            "credit:score",
            "credit:decision",
            "essential-services",
            "benefits:eligibility",
            "public-benefit:eligibility",
        ],
    },
    Rule {
        id: "eu-ai-act-law-enforcement-border-justice",
        category: Category::HighRisk,
        fragments: &[
            "law-enforcement",
            "law_enforcement",
            "migration:decision",
            "asylum:decision",
            "border-control",
            "justice:decision",
            "democratic-process",
            "election:decision",
        ],
    },
    Rule {
        id: "eu-ai-act-healthcare-critical-infrastructure",
        category: Category::HighRisk,
        fragments: &[
            "healthcare:decision",
            "medical:diagnosis",
            "medical:triage",
            "clinical:decision",
            "critical-infrastructure",
            "grid:stabilize",
            "hospital:surge-capacity",
        ],
    },
    Rule {
        id: "eu-ai-act-physical-world-control",
        category: Category::HighRisk,
        fragments: &[
            "robotics:control",
            "robotics:fleet",
            "drone:control",
            "drone:search",
            "iot:actuate",
            "physical-world",
            "system_control",
        ],
    },
];

/// A fragment, and the place of its rule in the table.
type Fragment = (&'static [u8], usize);

/// The fragments by their first byte: every task is looked at, and looking for each of them by itself took 3 µs.
static BY_FIRST_BYTE: LazyLock<[Vec<Fragment>; 256]> = LazyLock::new(|| {
    let fragments =
        || RULES.iter().enumerate().flat_map(|(at, rule)| rule.fragments.iter().map(move |text| (text.as_bytes(), at)));
    std::array::from_fn(|first| {
        fragments().filter(|(text, _)| text.first().is_some_and(|byte| usize::from(*byte) == first)).collect()
    })
});

/// The first rule of the table that an intent in lower case falls under.
fn hit(intent: &str) -> Option<&'static Rule> {
    let bytes = intent.as_bytes();
    let found = bytes.iter().enumerate().flat_map(|(at, first)| {
        let starting = &BY_FIRST_BYTE[usize::from(*first)];
        starting.iter().filter(move |(fragment, _)| bytes[at..].starts_with(fragment)).map(|(_, place)| *place)
    });
    found.min().map(|place| &RULES[place])
}

/// The code of every refusal by the table.
pub(crate) const REFUSED: &str = "IICP-POLICY-001";

/// What the table of risks has against an intent, with the rule; none if nothing.
pub(crate) fn refusal(intent: &str) -> Option<String> {
    let rule = hit(&intent.to_lowercase())?;
    let why = match rule.category {
        Category::Prohibited => "prohibited",
        Category::HighRisk => "of high risk, and needs a private mesh with a compliance profile",
    };
    Some(format!("the intent is {why} (rule {})", rule.id))
}

/// Refuses intents that the table of risks names.
///
/// # Errors
/// `POLICY_REFUSED`, with the rule.
pub(crate) fn check_intent(intent: &str) -> Result<()> {
    let Some(why) = refusal(intent) else { return Ok(()) };
    Err(Error::new(Code::PolicyRefused, format!("{why}; nothing was sent")).with_wire_code(REFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CHAT, COMPLETION, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION};

    #[test]
    fn every_fragment_of_every_rule_refuses_and_names_the_rule() {
        let (prohibited, high): (Vec<&Rule>, Vec<&Rule>) =
            RULES.iter().partition(|rule| rule.category == Category::Prohibited);
        assert_eq!((prohibited.len(), high.len()), (7, 6));
        for rule in RULES {
            for fragment in rule.fragments {
                assert_eq!(*fragment, fragment.to_lowercase(), "would never be found");
                let error = check_intent(&format!("urn:iicp:intent:{}:v1", fragment.to_uppercase())).unwrap_err();
                assert_eq!((error.code(), error.wire_code()), (Code::PolicyRefused, Some("IICP-POLICY-001")));
                assert!(error.message().contains("eu-ai-act-"), "{error}");
            }
        }
        let error = check_intent("urn:iicp:intent:social-scoring:v1").unwrap_err();
        assert!(error.message().contains("eu-ai-act-social-scoring"), "{error}");
    }

    #[test]
    fn the_well_known_intents_and_those_that_only_want_a_notice_pass() {
        for intent in [CHAT, COMPLETION, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION, "urn:iicp:intent:x.a:chatbot:v1"]
        {
            check_intent(intent).unwrap();
        }
    }
}
