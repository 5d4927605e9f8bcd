//! What packagers are given: the unit is one that systemd takes, the image runs as nobody in particular.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Home, Service, ended};

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file)
}

/// The arguments of an instruction that is written as a list.
fn list<'a>(dockerfile: &'a str, instruction: &str) -> Vec<&'a str> {
    let line = dockerfile.lines().rfind(|line| line.starts_with(instruction));
    let line = line.unwrap_or_else(|| panic!("no {instruction}"));
    let inside = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).unwrap().0;
    inside.split(',').map(|part| part.trim().trim_matches('"')).collect()
}

#[test]
fn systemd_takes_the_unit() {
    let home = Home::new();
    // Checked with a program that is there.
    let unit = std::fs::read_to_string(packaging("iicp.service")).unwrap();
    let unit = home.file("iicp.service", &unit.replace("/usr/bin/iicp", env!("CARGO_BIN_EXE_iicp")));
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", &unit]);
    match command.output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr);
            let ours: Vec<&str> = told.lines().filter(|line| line.contains("iicp.service")).collect();
            assert!(ours.is_empty(), "{ours:#?}");
        }
        // Who has no systemd does not package for it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_unit_starts_a_command_line_that_there_is() {
    let home = Home::new();
    let unit = std::fs::read_to_string(packaging("iicp.service")).unwrap();
    let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
    let (program, arguments) = value("ExecStart").split_once(' ').unwrap();
    assert_eq!(program, "/usr/bin/iicp");
    home.run(&[arguments, "--help"]).with(0);
    assert_eq!((value("Type"), value("DynamicUser"), value("RestartPreventExitStatus")), ("notify", "yes", "2"));
}

#[test]
fn what_the_image_runs_works_as_nobody_in_an_empty_folder() {
    let home = Home::new();
    let dockerfile = std::fs::read_to_string(packaging("Dockerfile")).unwrap();
    let user = dockerfile.lines().filter_map(|line| line.strip_prefix("USER ")).next_back().unwrap();
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.iter().all(|id| *id > 0), "the image runs as root");
    let check = list(&dockerfile, "HEALTHCHECK");
    assert_eq!(
        (list(&dockerfile, "ENTRYPOINT"), check[0], list(&dockerfile, "CMD")),
        (vec!["iicp"], "iicp", vec!["serve"])
    );

    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let port = crate::support::nobody().rsplit(':').next().unwrap().to_owned();
    let as_nobody = |arguments: &[&str]| {
        let mut command = home.iicp(arguments);
        command.env_remove("HOME").env("IICP_NODE_PORT", &port).env("IICP_NODE_HOST", "127.0.0.1").current_dir(&empty);
        if rustix::process::geteuid().is_root() && readable_by_all(env!("CARGO_BIN_EXE_iicp")) {
            command.uid(ids[0]).gid(ids[1]);
        }
        command
    };
    let node = Service::start(as_nobody(&["serve", "--echo", "--skip-registration", "--json"]));
    ended(as_nobody(&check[1..])).with(0);
    drop(node);
    ended(as_nobody(&check[1..])).with(1);
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "it left something behind");
}

/// Whether another user can start this program.
fn readable_by_all(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    Path::new(program)
        .ancestors()
        .filter(|part| part.is_absolute())
        .all(|part| std::fs::metadata(part).is_ok_and(|about| about.permissions().mode() & 0o001 != 0))
}

#[test]
fn every_variable_of_the_packages_is_known() {
    let home = Home::new();
    for file in ["iicp.service", "Dockerfile"] {
        let text = std::fs::read_to_string(packaging(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        let ours: Vec<&str> = words.filter(|word| word.starts_with("IICP_") && word.len() > 5).collect();
        assert!(!ours.is_empty(), "{file}");
        let help = home.run(&["serve", "--help"]).with(0).out.replace(['\n', ' '], "");
        for name in ours {
            let known = help.contains(name.trim_end_matches("_FILE").trim_end_matches('_'));
            assert!(known, "{file}: {name}");
        }
    }
}
