use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use super::*;

const HERE: &str = "http://127.0.0.1:9480";

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("iicp-identity-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn node(&self, node_id: Option<&str>) -> Identity {
        identity(&self.0, node_id, HERE).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn credentials(token: &str) -> Credentials {
    Credentials {
        node_token: Zeroizing::new(token.into()),
        node_hmac_key: Some(Zeroizing::new(format!("key of {token}"))),
    }
}

fn token(identity: &Identity) -> Option<&str> {
    identity.credentials.as_ref().map(|kept| kept.node_token.as_str())
}

#[test]
fn a_node_without_an_id_gets_one_and_keeps_it() {
    let folder = Folder::new();
    let first = folder.node(None).node_id.clone();
    assert_eq!(first.len(), 36);
    assert_eq!(folder.node(None).node_id, first);
    assert_eq!(folder.node(Some("node-1")).node_id, "node-1", "who names one has that");
    assert_ne!(Identity::passing(None).node_id, Identity::passing(None).node_id);
}

#[test]
fn an_id_that_cannot_be_read_is_an_error_with_the_path_and_never_replaced() {
    let folder = Folder::new();
    let first = folder.node(None).node_id.clone();
    let path = folder.0.join("nodes/default.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for length in 0..good.trim_end().len() {
        std::fs::write(&path, &good[..length]).unwrap();
        let error = identity(&folder.0, None, HERE).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{length}");
        assert!(error.message().contains(path.to_str().unwrap()) && error.message().contains("node_id"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), &good[..length]);
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(folder.node(None).node_id, first);
}

#[test]
fn what_proves_a_node_comes_back_to_the_same_node_at_the_same_directory_only() {
    let folder = Folder::new();
    assert_eq!(token(&folder.node(Some("a"))), None);
    keep_credentials(&folder.0, "a", HERE, &credentials("t1")).unwrap();
    keep_credentials(&folder.0, "a", HERE, &credentials("t2")).unwrap();
    let kept = folder.node(Some("a"));
    assert_eq!(token(&kept), Some("t2"));
    assert_eq!(kept.credentials.as_ref().unwrap().node_hmac_key.as_deref().map(String::as_str), Some("key of t2"));
    drop(kept);
    assert_eq!(token(&folder.node(Some("b"))), None, "another node");
    let elsewhere = identity(&folder.0, Some("a"), "https://iicp.network/api").unwrap();
    assert_eq!(token(&elsewhere), None, "another directory is not shown what this one gave");
    for file in ["default.json", &format!("{}.json", stem("a"))] {
        let Ok(facts) = std::fs::metadata(folder.0.join(NODES).join(file)) else { continue };
        assert_eq!(facts.permissions().mode() & 0o7777, 0o600, "{file}");
    }
}

/// K13: the file cut at every byte.
#[test]
fn a_torn_proof_is_left_aside_and_the_node_starts() {
    let folder = Folder::new();
    keep_credentials(&folder.0, "a", HERE, &credentials("t1")).unwrap();
    let path = credentials_path(&folder.0, "a");
    let good = std::fs::read(&path).unwrap();
    for length in 0..good.len() - 1 {
        std::fs::write(&path, &good[..length]).unwrap();
        assert_eq!(token(&folder.node(Some("a"))), None, "{length}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(token(&folder.node(Some("a"))), Some("t1"));
    keep_credentials(&folder.0, "a", HERE, &credentials("t2")).unwrap();
    assert_eq!(token(&folder.node(Some("a"))), Some("t2"));
}

#[test]
fn two_nodes_with_one_id_do_not_serve_at_the_same_time() {
    let folder = Folder::new();
    let first = folder.node(None);
    let error = identity(&folder.0, None, HERE).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), Code::NodeLocked);
    for told in ["another node of this process", &first.node_id, folder.0.to_str().unwrap(), "state_dir"] {
        assert!(error.message().contains(told), "{told}: {error}");
    }
    let other = folder.node(Some("other"));
    assert_eq!(other.node_id, "other", "another id is another node");
    let id = first.node_id.clone();
    // The lock is waited for: who restarts a node does not have to count seconds.
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| folder.node(None).node_id.clone());
        drop(first);
        waiting.join().unwrap()
    });
    assert_eq!(waiting, id);
}

/// This test program again, as a child that is a node until it is killed.
#[test]
#[ignore = "only as a child of other tests"]
fn body_of_a_holder() {
    let state_dir = PathBuf::from(std::env::var_os("IICP_STATE_TEST").unwrap());
    let held = identity(&state_dir, Some("held"), HERE).unwrap();
    std::fs::write(state_dir.join("holding"), &held.node_id).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_lock_names_its_holder_and_ends_with_it_however_it_ends() {
    let folder = Folder::new();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "state::identity::tests::body_of_a_holder"])
        .env("IICP_STATE_TEST", &folder.0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !folder.0.join("holding").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the child does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = identity(&folder.0, Some("held"), HERE).map(|_| ()).unwrap_err();
    assert!(error.message().contains(&format!("process {}", holder.id())), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(folder.node(Some("held")).node_id, "held");
}

/// S23: nothing can be written, as a link to nowhere, a file and a full disk have it.
#[test]
fn where_nothing_can_be_written_a_node_starts_and_says_so() {
    let folder = Folder::new();
    let file = folder.0.join("file");
    std::fs::write(&file, "x").unwrap();
    for state_dir in [file, PathBuf::from("/proc/iicp-state")] {
        let node = identity(&state_dir, Some("a"), HERE).unwrap();
        assert_eq!((node.node_id.as_str(), token(&node)), ("a", None));
        assert_eq!(identity(&state_dir, None, HERE).unwrap().node_id.len(), 36);
        assert!(keep_credentials(&state_dir, "a", HERE, &credentials("t")).is_err());
    }
}

/// S23, full disk: as the system enforces it, in a child.
#[test]
#[ignore = "only as a child of other tests"]
fn body_of_a_full_disk() {
    let state_dir = PathBuf::from(std::env::var_os("IICP_STATE_TEST").unwrap());
    let node = identity(&state_dir, Some("a"), HERE).unwrap();
    assert_eq!(token(&node), Some("t1"), "the last good one");
    assert!(keep_credentials(&state_dir, "a", HERE, &credentials("t2")).is_err(), "the disk is not full");
}

#[test]
fn on_a_full_disk_the_last_good_proof_stays() {
    let folder = Folder::new();
    keep_credentials(&folder.0, "a", HERE, &credentials("t1")).unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "state::identity::tests::body_of_a_full_disk"]);
    let status = child.env("IICP_STATE_TEST", &folder.0).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(token(&folder.node(Some("a"))), Some("t1"));
}
