//! File, environment and flags: which counts, where it came from, and every kind of mistake with its place.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Ended, Home, ended};

/// What `config show --origin --json` says of an option.
#[track_caller]
fn shown(ended: &Ended, section: &str, option: &str) -> (Value, Value) {
    let all = ended.objects();
    let found = all.iter().find(|object| object["section"] == section && object["option"] == option);
    let found = found.unwrap_or_else(|| panic!("no {option} of {section} in {}", ended.out));
    (found["value"].clone(), found["origin"].clone())
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let home = Home::new();
    let show = ["config", "show", "--origin", "--json", "--", "healthcheck"];
    let port = |ended: &Ended| shown(ended, "node", "port");
    assert_eq!(port(&home.run(&show).with(0)), (json!(9484), json!({ "kind": "default" })));

    let file = home.file(".config/iicp/config.toml", "# ours\n[node]\nhost = \"::1\"\n  port = 0x10\n");
    let from_file = (json!(16), json!({ "kind": "file", "path": file, "line": 4, "column": 10 }));
    assert_eq!(port(&home.run(&show).with(0)), from_file);

    let by_variable = || {
        let mut command = home.iicp(&show);
        command.env("IICP_NODE_PORT", "17");
        command
    };
    assert_eq!(
        port(&ended(by_variable()).with(0)),
        (json!(17), json!({ "kind": "variable", "name": "IICP_NODE_PORT" }))
    );

    let mut by_flag = by_variable();
    by_flag.args(["--port", "18"]);
    let by_flag = ended(by_flag).with(0);
    assert_eq!(port(&by_flag), (json!(18), json!({ "kind": "flag", "name": "--port" })));
    assert_eq!(shown(&by_flag, "node", "host").1["kind"], "file");

    // A variable that is empty is one that is not set.
    let mut empty = home.iicp(&show);
    empty.env("IICP_NODE_PORT", "");
    assert_eq!(port(&ended(empty).with(0)), from_file);
}

#[test]
fn a_file_is_found_by_flag_variable_and_place() {
    let home = Home::new();
    let write = |name: &str, ms: u32| home.file(name, &format!("[client]\ntimeout_ms = {ms}\n"));
    let (by_flag, by_variable) = (write("a.toml", 1), write("b.toml", 2));
    write(".config/iicp/config.toml", 3);
    write("xdg/iicp/config.toml", 4);
    let show = ["config", "show", "--origin", "--json"];
    let timeout = |ended: Ended| shown(&ended.with(0), "client", "timeout_ms").0;
    assert_eq!(timeout(home.run(&show)), 3);
    let mut command = home.iicp(&show);
    command.env("XDG_CONFIG_HOME", home.path().join("xdg"));
    assert_eq!(timeout(ended(command)), 4);
    let mut command = home.iicp(&show);
    command.env("IICP_CONFIG_FILE", &by_variable);
    assert_eq!(timeout(ended(command)), 2);
    let mut command = home.iicp(&show);
    command.env("IICP_CONFIG_FILE", &by_variable).args(["--config", &by_flag]);
    assert_eq!(timeout(ended(command)), 1);
    for (flag, variable) in [(Some("nowhere.toml"), None), (None, Some("nowhere.toml"))] {
        let mut command = home.iicp(&["query", "hi", "--json"]);
        command.args(flag.map(|path| ["--config", path]).into_iter().flatten());
        command.envs(variable.map(|path| ("IICP_CONFIG_FILE", path)));
        let missing = ended(command).with(2);
        assert_eq!(missing.errors()[0]["origins"][0]["kind"], if flag.is_some() { "flag" } else { "variable" });
    }
}

#[test]
fn the_names_of_the_published_command_are_understood() {
    let home = Home::new();
    let mut command = home.iicp(&["config", "show", "--origin", "--json"]);
    command.env("IICP_DIRECTORY_URL", "http://127.0.0.1:1").env("IICP_PUBLIC_ENDPOINT", "https://node.example");
    command.env("IICP_ROUTING_STRATEGY", "epsilon").env("IICP_REGION_ALLOWLIST", "eu, eea");
    let shown_all = ended(command).with(0);
    for (section, option, value) in [
        ("client", "directory", json!("http://127.0.0.1:1")),
        ("node", "directory", json!("http://127.0.0.1:1")),
        ("node", "endpoint", json!("https://node.example")),
        ("client", "routing_strategy", json!("epsilon")),
        ("client", "routing_policy.allowed_regions", json!(["eu", "eea"])),
    ] {
        assert_eq!(shown(&shown_all, section, option).0, value, "{option}");
    }
    let mut command = home.iicp(&["config", "show", "--origin", "--json"]);
    command.env("IICP_DIRECTORY_URL", "http://127.0.0.1:1").env("IICP_NODE_DIRECTORY", "http://127.0.0.1:2");
    assert_eq!(shown(&ended(command).with(0), "node", "directory").0, "http://127.0.0.1:2");
}

#[test]
fn what_is_shown_is_a_file_that_says_the_same() {
    let home = Home::new();
    home.file(
        ".config/iicp/config.toml",
        "[client]\nregion = \"eu-\\\"central\"\n[client.routing_policy]\nprofile = \"eu_restricted\"\nallowed_regions = [\"eu\"]\n",
    );
    // A region that is refused is shown as well, and the mistake is told.
    home.run(&["config", "show"]).with(2);
    home.file(
        ".config/iicp/config.toml",
        "[client]\nregion = \"eu-central\"\n[client.routing_policy]\nprofile = \"eu_restricted\"\nallowed_regions = [\"eu\"]\n",
    );
    let first = home.run(&["config", "show"]).with(0).out;
    let copy = home.file("copy.toml", &first);
    assert_eq!(home.run(&["config", "show", "--config", &copy]).with(0).out, first);
    home.run(&["config", "validate", &copy]).with(0);
}

/// A mistake: the file, its code, where it stands, and words of what is said.
type Mistake = (&'static str, i64, (u64, u64), &'static str);

#[test]
fn every_mistake_in_a_file_is_told_with_its_place_and_what_was_meant() {
    let mistakes: &[Mistake] = &[
        ("[client]\nregion = \n", 2001, (2, 10), "not TOML"),
        ("[client\n", 2001, (1, 8), "not TOML"),
        ("[client]\nregion = \"a\"\nregion = \"b\"\n", 2001, (3, 1), "duplicate"),
        ("[clinet]\n", 2001, (1, 2), "did you mean [client]?"),
        ("[proxy]\n", 2001, (1, 2), "there are [client], [node], [directory]"),
        ("region = \"eu\"\n", 2001, (1, 1), "no section"),
        ("node = 3\n", 2001, (1, 1), "is a section"),
        ("[client]\ntimeout = 3\n", 2001, (2, 1), "did you mean timeout_ms?"),
        ("[client]\n\"timeout-ms\" = 3\n", 2001, (2, 1), "did you mean timeout_ms?"),
        ("[client]\ndirectory_url = \"http://x\"\n", 2001, (2, 1), "did you mean directory?"),
        ("[client]\nmax_concurrent = 3\n", 2001, (2, 1), "max_concurrent in [node]"),
        ("[client]\nwhatever = 3\n", 2001, (2, 1), "config schema"),
        ("[client]\ntimeout_ms = \"3\"\n", 2001, (2, 14), "a whole number"),
        ("[client]\ntimeout_ms = 1.5\n", 2001, (2, 14), "a whole number"),
        ("[client]\ntimeout_ms = -1\n", 2001, (2, 14), "a whole number"),
        ("[client]\ntimeout_ms = 99999999999999999999\n", 2001, (2, 14), ""),
        ("[client]\ntimeout_ms = 1979-05-27\n", 2001, (2, 14), "found a date"),
        ("[client]\ntimeout_ms = 0\n", 2001, (2, 14), "1 to 120000"),
        ("[client]\ntimeout_ms = 120001\n", 2003, (2, 14), "120000"),
        ("[client]\nregion = [\"eu\"]\n", 2001, (2, 10), "expected text; found a list"),
        ("[client]\nallow_private_endpoints = \"yes\"\n", 2001, (2, 27), "true or false"),
        ("[client]\nrouting_strategy = \"random\"\n", 2001, (2, 20), "one of deterministic"),
        ("[client]\nrouting_policy = \"standard\"\n", 2001, (2, 18), "[client.routing_policy] is a table"),
        ("[client.routing_policy]\nprofil = \"standard\"\n", 2001, (2, 1), "did you mean profile?"),
        ("[client.routing_policy]\nallowed_regions = [1]\n", 2001, (2, 19), "a list with something else in it"),
        ("[client.profile_request]\nprofile_id = \"p\"\n", 2001, (2, 14), ""),
        ("[client]\nrouting_epsilon = inf\n", 2001, (2, 19), "a number"),
        ("[client]\nconsumer_auth = \"required\"\n", 2001, (2, 17), "node_token"),
        ("[client]\ndirectory = \"ftp://x\"\n", 2001, (2, 13), "neither http nor https"),
        ("[client]\ndirectory = \"http://u:p@x\"\n", 2001, (2, 13), "carries credentials"),
        ("[client]\nx = \"ü\"\ny = 1\n", 2001, (2, 1), "no option x"),
    ];
    let home = Home::new();
    for (text, code, (line, column), words) in mistakes {
        let file = home.file("config.toml", text);
        let ended = home.run(&["query", "hi", "--config", &file, "--json"]).with(2);
        let errors = ended.errors();
        let error = &errors[0];
        assert!(error["message"].as_str().unwrap().contains(words), "{text}: {error}");
        assert_eq!(error["code"], *code, "{text}: {error}");
        let at = json!({ "kind": "file", "path": file, "line": line, "column": column });
        assert_eq!(error["origins"][0], at, "{text}: {error}");
        // The same for people.
        let told = home.run(&["query", "hi", "--config", &file]).with(2).err;
        assert!(told.contains(&format!("--> {file}:{line}:{column}")), "{text}: {told}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let home = Home::new();
    let file =
        home.file("c.toml", "[node]\nport = 70000\nprot = 1\nmax_concurrent = 999\nregion = \"\"\nintents = [\"x\"]\n");
    let errors = home.run(&["config", "validate", &file, "--json"]).with(2).errors();
    let lines: Vec<u64> = errors.iter().map(|error| error["origins"][0]["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6], "{errors:?}");
    assert_eq!(errors[4]["name"], "INTENT_INVALID");
    // What is wrong with a node does not stop a client, unless the file cannot be read at all.
    home.run(&["query", "hi", "--config", &file, "--directory-url", &crate::support::nobody()]).with(3);
}

#[test]
fn a_url_of_a_node_that_is_none_is_told_with_its_place() {
    let home = Home::new();
    let text =
        "[node]\nendpoint = \"node.example\"\ndirectory = \"ftp://x\"\n[node.backend]\nurl = \"127.0.0.1:8000\"\n";
    let file = home.file("c.toml", text);
    let errors = home.run(&["config", "validate", &file, "--json"]).with(2).errors();
    let lines: Vec<u64> = errors.iter().map(|error| error["origins"][0]["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 5], "{errors:?}");
    let mut command = home.iicp(&["serve", "--backend", "vllm", "--json"]);
    command.env("IICP_NODE_ENDPOINT", "https://node.example/?token=canary");
    let wrong = ended(command).with(2);
    assert_eq!(wrong.errors()[0]["origins"][0], json!({ "kind": "variable", "name": "IICP_NODE_ENDPOINT" }));
    assert!(!wrong.err.contains("canary"), "{}", wrong.err);
}

#[test]
fn a_table_without_options_switches_on_what_it_is_about() {
    let home = Home::new();
    let file = home.file("c.toml", "[node.relay_server]\n");
    let ended = home.run(&["config", "show", "--origin", "--json", "--config", &file]).with(0);
    assert_eq!(shown(&ended, "node", "relay_server.port").0, 9485);
    let file = home.file("c.toml", "[node]\n");
    let ended = home.run(&["config", "show", "--origin", "--json", "--config", &file]).with(0);
    assert!(shown(&ended, "node", "relay_server.port").0.is_null());
}

#[test]
#[cfg(unix)]
fn who_keeps_a_secret_where_others_can_read_it_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let file = home.file("c.toml", "[client]\nnode_token = \"canary\"\n");
    let warned = |mode, file: &str| {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        home.run(&["config", "validate", file]).with(0).err
    };
    let told = warned(0o644, &file);
    assert!(told.contains("node_token") && told.contains(&format!("chmod 600 {file}")) && !told.contains("canary"));
    assert_eq!(warned(0o600, &file), "");
    let harmless = home.file("d.toml", "[client]\nregion = \"eu\"\n");
    assert_eq!(warned(0o644, &harmless), "");
}

#[test]
fn a_file_that_cannot_be_one_is_refused_as_a_whole() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("folder")).unwrap();
    std::fs::write(home.path().join("binary"), [0xff, 0xfe, 0]).unwrap();
    home.file("huge", &"#".repeat((1 << 20) + 1));
    for (file, words) in [("folder", "a folder"), ("binary", "UTF-8"), ("huge", "larger than")] {
        let errors = home.run(&["config", "validate", file, "--json"]).with(2).errors();
        assert!(errors[0]["message"].as_str().unwrap().contains(words), "{errors:?}");
        assert_eq!(errors[0]["origins"][0], json!({ "kind": "file", "path": file }));
    }
}

#[test]
fn a_mistake_in_a_variable_or_a_flag_names_it() {
    let home = Home::new();
    for (name, value) in [
        ("IICP_CLIENT_TIMEOUT_MS", "soon"),
        ("IICP_CLIENT_TIMEOUT_MS", "0"),
        ("IICP_CLIENT_ALLOW_PRIVATE_ENDPOINTS", "perhaps"),
        ("IICP_ROUTING_STRATEGY", "random"),
        ("IICP_CLIENT_ROUTING_EPSILON", "7"),
    ] {
        let mut command = home.iicp(&["query", "hi", "--json"]);
        command.env(name, value);
        let errors = ended(command).with(2).errors();
        assert_eq!(errors[0]["origins"][0], json!({ "kind": "variable", "name": name }), "{name}: {errors:?}");
    }
    for (flag, value) in
        [("--timeout-ms", "soon"), ("--timeout-ms", "0"), ("--routing-epsilon", "-1"), ("--region", "?")]
    {
        let errors = home.run(&["query", "hi", "--json", flag, value]).with(2).errors();
        assert_eq!(errors[0]["origins"][0], json!({ "kind": "flag", "name": flag }), "{flag}: {errors:?}");
    }
    let mut command = home.iicp(&["directory", "--json"]);
    command.env("IICP_DRAIN_MS", "-1");
    assert!(ended(command).with(2).errors()[0]["message"].as_str().unwrap().contains("IICP_DRAIN_MS"));
}

#[test]
fn a_variable_that_is_spelt_wrong_is_pointed_out_and_strange_ones_are_left_alone() {
    let home = Home::new();
    let mut command = home.iicp(&["config", "validate"]);
    command.env("IICP_NODE_PROT", "1").env("IICP_TUNNEL_DEAD_POLICY", "auto").env("IICP_SUPERVISED", "1");
    let told = ended(command).with(0).err;
    assert!(told.contains("IICP_NODE_PROT is not known; did you mean IICP_NODE_PORT?"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_secret_is_never_shown() {
    let home = Home::new();
    let canary = "canary-4711";
    let file = home.file("c.toml", &format!("[client]\nnode_token = \"{canary}\"\n"));
    let out = home.run(&["config", "show", "--origin", "--config", &file]).with(0).out;
    assert!(out.contains("node_token = \"***\"") && !out.contains(canary), "{out}");

    let secret_file = home.file("secret", &format!("{canary}\n"));
    let mut command = home.iicp(&["config", "show", "--origin", "--json"]);
    command.env("IICP_NODE_TOKEN_FILE", &secret_file);
    let by_file = ended(command).with(0);
    let origin = json!({ "kind": "variable", "name": "IICP_NODE_TOKEN_FILE" });
    assert_eq!(shown(&by_file, "client", "node_token"), (json!("***"), origin));

    for text in [
        format!("[client]\nnode_token = \"{canary}\n"),
        format!("[client]\nnode_token = {canary}\n"),
        format!("[client]\nnode_token = [\"{canary}\"]\n"),
        format!("[client]\nnode_token = \"{canary} \\u0000\"\n"),
        format!("[client]\nnode_tokn = \"{canary}\"\n"),
    ] {
        let file = home.file("wrong.toml", &text);
        for more in [&[][..], &["--json"]] {
            let wrong = home.run(&[&["query", "hi", "--config", &file], more].concat()).with(2);
            assert!(!wrong.err.contains(canary) && !wrong.err.is_empty(), "{}", wrong.err);
        }
    }
    let mut command = home.iicp(&["query", "hi", "-vvv"]);
    command.env("IICP_NODE_TOKEN", format!("{canary} with a space")).stdout(Stdio::piped());
    let wrong = ended(command).with(2);
    assert!(wrong.err.contains("IICP_NODE_TOKEN") && !wrong.err.contains(canary), "{}", wrong.err);
}

#[test]
fn the_schema_knows_every_section_and_refers_to_nothing_that_is_not_there() {
    let home = Home::new();
    let schema: Value = serde_json::from_str(&home.run(&["config", "schema"]).with(0).out).unwrap();
    for section in ["client", "node", "directory"] {
        assert!(schema["properties"][section]["properties"].is_object(), "{section}");
    }
    let text = schema.to_string();
    let references: Vec<&str> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(!references.is_empty() && references.iter().all(|path| schema.pointer(path).is_some()), "{references:?}");
}

#[test]
fn a_switch_that_is_on_by_default_is_switched_off_by_name() {
    let home = Home::new();
    let probe = |flags: &[&str]| {
        let shown_all =
            home.run(&[&["config", "show", "--origin", "--json", "--", "directory"], flags].concat()).with(0);
        shown(&shown_all, "directory", "probe").0
    };
    assert_eq!(probe(&[]), true);
    assert_eq!(probe(&["--no-probe"]), false);
    assert_eq!(probe(&["--probe=false"]), false);
    assert_eq!(probe(&["--no-probe", "--probe"]), true);
    assert_eq!(probe(&["--probe", "--no-probe"]), false);
}
