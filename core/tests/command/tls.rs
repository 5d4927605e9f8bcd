//! A node with a certificate: served, asked and examined by the command.

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::support::Home;

fn pem(kind: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

/// Files with an authority, and with a certificate of it and its key; good until 2021, or for long.
fn files(home: &Home, name: &str, expired: bool) -> [String; 3] {
    let (authority, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut of_authority = CertificateParams::default();
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = of_authority.self_signed(&authority).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "node.example.com".into()]).unwrap();
    if expired {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    let certificate = params.signed_by(&own, &Issuer::new(of_authority, authority)).unwrap();
    [
        home.file(&format!("{name}/authority.pem"), &pem("CERTIFICATE", root.der())),
        home.file(&format!("{name}/certificate.pem"), &pem("CERTIFICATE", certificate.der())),
        home.file(&format!("{name}/key.pem"), &pem("PRIVATE KEY", &own.serialize_der())),
    ]
}

#[test]
fn a_node_serves_with_a_certificate_by_flags_by_file_and_by_variables() {
    let home = Home::new();
    let [authority, certificate, key] = files(&home, "good", false);
    // One for each node that is asked: those before are still in the list.
    let directory = || home.serve(&["directory", "--port", "0", "--no-probe", "--no-limits", "--no-qos-gating"]);
    let first = directory();
    let mesh = &first.directory();
    let asks = |mesh: &str| {
        let told = home.run(&["query", "hi", "--directory-url", mesh, "--trusted-ca", &authority]).with(0).out;
        assert_eq!(told, "You said: hi\n");
        let untold = home.run(&["query", "hi", "--directory-url", mesh, "--json"]).with(4);
        assert_eq!(untold.errors()[0]["name"], "TLS");
        assert!(untold.errors()[0]["message"].as_str().unwrap().contains("trusted_ca"), "{untold:?}");
    };
    let same = ["--directory-url", mesh, "--port", "0", "--json", "--echo"];
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key, "--trusted-ca", &authority, "--tls-only"];
    let node = home.serve(&[&["serve"], &same[..], &flags].concat());
    assert!(node.ready["node"]["url"].as_str().unwrap().starts_with("https://"), "{}", node.ready);
    assert_eq!(node.ready["node"]["registered"], true);
    asks(mesh);
    drop(node);

    let text = format!(
        "[node]\ntrusted_ca = {authority:?}\n[node.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n[client]\nregion = \"lab\"\n"
    );
    let config = home.file("config.toml", &text);
    let shown = home.run(&["--config", &config, "config", "show"]).with(0);
    assert!(shown.out.contains(&key), "a path is no secret: {}", shown.out);
    assert!(!shown.err.contains("can read it"), "{}", shown.err);
    let node = home.serve(&[&["--config", &config, "serve"], &same[..]].concat());
    assert_eq!(node.ready["node"]["registered"], true);
    drop(node);

    let second = directory();
    let mesh = &second.directory();
    let mut command = home.iicp(&["serve", "--directory-url", mesh, "--port", "0", "--json", "--echo"]);
    command.env("IICP_NODE_TLS_CERTIFICATE_FILE", &certificate).env("IICP_NODE_TLS_KEY_FILE", &key);
    command.env("IICP_NODE_TRUSTED_CA", &authority);
    let node = crate::support::Service::start(command);
    assert_eq!(node.ready["node"]["registered"], true);
    asks(mesh);
}

#[test]
fn a_health_check_gets_through_to_a_node_that_takes_tls_only() {
    let home = Home::new();
    let [authority, certificate, key] = files(&home, "good", false);
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let text = format!(
        "[node]\nport = {port}\ndirectory = \"\"\ntrusted_ca = {authority:?}\n[node.tls]\ncertificate = {certificate:?}\nkey = \
         {key:?}\nonly = true\n"
    );
    let config = home.file("config.toml", &text);
    let _node = home.serve(&["--config", &config, "serve", "--echo"]);
    home.run(&["--config", &config, "healthcheck"]).with(0);
    home.run(&["--config", &config, "healthcheck", &format!("https://127.0.0.1:{port}")]).with(0);
    home.run(&["healthcheck", &format!("https://127.0.0.1:{port}")]).with(1);
    home.run(&["healthcheck", &format!("http://127.0.0.1:{port}")]).with(1);
}

#[test]
fn a_doctor_judges_the_nodes_own_certificate() {
    let home = Home::new();
    let check = |files: &[String; 3], more: &[&str]| -> Value {
        let [authority, certificate, key] = files;
        let flags = [
            "--tls-certificate",
            certificate,
            "--tls-key",
            key,
            "--trusted-ca",
            authority,
            "--directory-url",
            "",
            "--port",
            "0",
        ];
        let seen = home.run(&[&["doctor", "--json"], &flags[..], more].concat()).objects();
        let checks = seen[0]["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|one| one["check"] == "certificate").unwrap()
    };
    let good = files(&home, "good", false);
    let seen = check(&good, &["--endpoint", "https://node.example.com"]);
    assert_eq!(seen["state"], "ok", "{seen}");
    assert!(seen["said"].as_str().unwrap().contains("node.example.com"), "{seen}");
    let seen = check(&good, &["--endpoint", "https://other.example.com"]);
    assert_eq!((&seen["state"], seen["fix"].is_string()), (&json!("failed"), true), "{seen}");
    let seen = check(&files(&home, "expired", true), &[]);
    assert!(seen["state"] == "failed" && seen["said"].as_str().unwrap().contains("expired"), "{seen}");
    let mut mixed = good.clone();
    mixed[2] = files(&home, "other", false)[2].clone();
    let seen = check(&mixed, &[]);
    assert!(seen["state"] == "failed" && seen["said"].as_str().unwrap().contains("other/key.pem"), "{seen}");
}
