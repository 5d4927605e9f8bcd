//! The published fixture `endpoint-security-v1`, every case of it.

use serde_json::Value;

use super::super::super::endpoint::Endpoint;
use super::super::super::resolve::Names;
use super::*;

const FIXTURE: &str = "tests/fixtures/endpoint-security-v1.json";

fn fixture() -> Value {
    let root = std::env::var_os("IICP_FIXTURES").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peer-sdist"),
        std::path::PathBuf::from,
    );
    let path = root.join(FIXTURE);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/interop/install", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn cases<'a>(fixture: &'a Value, of: &str) -> &'a [Value] {
    fixture[of].as_array().unwrap_or_else(|| panic!("{of}"))
}

fn addresses(list: &Value) -> Vec<IpAddr> {
    list.as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

fn reach(case: &Value) -> Reach {
    if case["allow_private"].as_bool().unwrap() { Reach::Private } else { Reach::Public }
}

/// What the guard says of a host whose name resolves so, and of each address as a literal.
async fn allowed(list: &Value, reach: Reach) -> bool {
    let answers = addresses(list);
    let by_name = Names::new(says({
        let answers = answers.clone();
        move |_, _| answers.clone()
    }));
    let by_name = by_name.resolve("provider.example.com", reach).await;
    let literal = |ip: &IpAddr| {
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        Endpoint::parse("the node", &format!("https://{host}")).unwrap().judge(reach).is_ok()
    };
    assert_eq!(by_name.is_ok(), answers.iter().all(literal), "{list}");
    by_name.is_ok()
}

#[tokio::test]
async fn the_published_endpoint_fixture_holds() {
    let fixture = fixture();
    let mut passed = Vec::new();
    let mut check = |case: &Value, holds: bool| {
        assert!(holds, "{case}");
        passed.push(case["id"].as_str().unwrap().to_owned());
    };
    for case in cases(&fixture, "address_vectors") {
        check(case, allowed(&case["addresses"], reach(case)).await == case["allowed"].as_bool().unwrap());
    }
    for case in cases(&fixture, "hostname_vectors") {
        let url = format!("https://{}", case["host"].as_str().unwrap());
        let judged = Endpoint::parse("the node", &url).unwrap().judge(Reach::Public);
        check(case, judged.is_ok() == case["allowed"].as_bool().unwrap());
    }
    for case in cases(&fixture, "resolution_attempt_vectors") {
        let attempts: Vec<_> = cases(case, "attempts").iter().map(addresses).collect();
        let names = Names::new(says(move |_, times| attempts[times - 1].clone()));
        let mut holds = true;
        for expected in cases(case, "expected") {
            let resolved = names.resolve("provider.example.com", reach(case)).await;
            holds &= match expected.as_str().unwrap() {
                "allow" => resolved.is_ok(),
                "refuse" => resolved == Err(NoReply::Refused),
                other => panic!("{other}"),
            };
        }
        check(case, holds);
    }
    for case in cases(&fixture, "redirect_vectors") {
        let first = Hop::first(Url::parse("https://provider.example.com/v1/task").unwrap(), reach(case));
        let same = case["same_origin"].as_bool().unwrap();
        let to: &[u8] = if same { b"/v1/tasks" } else { b"https://other.example.com/v1/task" };
        let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
        let next = first.follow(Redirects::SameOrigin, status, Some(to));
        let followed = next.is_some() && allowed(&case["target_addresses"], reach(case)).await;
        check(case, followed == (case["expected"] == "follow_after_revalidation"));
    }
    let lists = ["address_vectors", "hostname_vectors", "resolution_attempt_vectors", "redirect_vectors"];
    let all: usize = lists.iter().map(|list| cases(&fixture, list).len()).sum();
    tell(&format!("fixture endpoint-security-v1: {} of {all} cases", passed.len()));
}

#[allow(clippy::print_stdout)] // The run of the tests shows how many cases of each fixture were passed.
fn tell(line: &str) {
    println!("{line}");
}
