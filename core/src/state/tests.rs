use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::crypto::cx::NodeKey;
use crate::error::Code;

const NODE: &str = "node-1";
const KEYS: &str = "cx";
/// First 24 hex digits of SHA-256("node-1").
const FILE: &str = "cx/35971be6e9bb024a895582fe.json";

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("iicp-state-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn key_id(&self) -> String {
        sealing_key(&self.0, NODE).unwrap().key_id().to_owned()
    }

    fn file(&self) -> PathBuf {
        let names = || std::fs::read_dir(self.0.join(KEYS)).unwrap().map(|entry| entry.unwrap().path());
        names().find(|path| path.extension().is_some_and(|extension| extension == "json")).unwrap()
    }

    /// Names in the folder of the keys.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(KEYS)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_key_is_the_same_after_every_start_and_another_for_another_node() {
    let folder = Folder::new();
    let first = folder.key_id();
    assert_eq!(folder.key_id(), first);
    assert_ne!(sealing_key(&folder.0, "node-2").unwrap().key_id(), first);
    assert_eq!(folder.names().len(), 2, "nothing beside the two keys");
}

#[test]
fn a_key_file_has_the_form_of_the_published_nodes_and_is_for_its_owner_alone() {
    let folder = Folder::new();
    let state_dir = folder.0.join("not/there/yet");
    let key = sealing_key(&state_dir, NODE).unwrap();
    let path = state_dir.join(FILE);
    assert_eq!((mode(&path), mode(&state_dir.join(KEYS)), mode(&state_dir)), (0o600, 0o700, 0o700));
    let text = std::fs::read(&path).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&file["version"], &file["algorithm"]), (&1.into(), &"X25519".into()));
    assert_eq!(file["public_key"], key.public_json());
    assert_eq!(file["private_key"].as_str().unwrap().len(), 43);
    // As a published node writes it: more space, another order, no features.
    std::fs::write(&path, serde_json::to_string_pretty(&file).unwrap()).unwrap();
    assert_eq!(sealing_key(&state_dir, NODE).unwrap().key_id(), key.key_id());
}

#[test]
fn a_key_that_cannot_be_read_is_an_error_with_the_path_and_never_replaced() {
    let folder = Folder::new();
    let first = folder.key_id();
    let path = folder.file();
    let good = std::fs::read_to_string(&path).unwrap();
    let half = &good[..good.len() / 2];
    let other_id = good.replace(&first, "cx-0000000000000000");
    let private = good.split('"').nth(9).unwrap();
    let short = good.replace(private, "c2hvcnQ");
    let future = good.replace("\"version\":1", "\"version\":2");
    let large = " ".repeat(1 << 20);
    for (what, text) in [
        ("empty", ""),
        ("half", half),
        ("other", "[1]"),
        ("not even text", "\u{0}\u{1}"),
        ("halves", &other_id),
        ("short", &short),
        ("of the future", &future),
        ("large", &large),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = sealing_key(&folder.0, NODE).map(|_| ()).expect_err(what);
        assert_eq!(error.code(), Code::ConfigInvalid, "{what}");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert!(error.message().contains("restore") && error.message().contains("remove it"), "{error}");
        assert!(!format!("{error} {error:?}").contains(private), "{what}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{what}: left as it was");
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(sealing_key(&folder.0, NODE).map(|_| ()).unwrap_err().code(), Code::ConfigInvalid, "a folder");
    std::fs::remove_dir(&path).unwrap();
    symlink(&path, &path).unwrap();
    assert_eq!(sealing_key(&folder.0, NODE).map(|_| ()).unwrap_err().code(), Code::ConfigInvalid, "a loop");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &good).unwrap();
    assert_eq!(folder.key_id(), first, "restored");
}

/// S23, torn write: what can lie there when a start was killed between any two of its steps.
#[test]
fn what_a_killed_start_left_behind_is_in_nobodys_way() {
    let whole = {
        let folder = Folder::new();
        folder.key_id();
        std::fs::read(folder.file()).unwrap()
    };
    for left in [None, Some(0), Some(whole.len() / 2), Some(whole.len())] {
        let folder = Folder::new();
        std::fs::create_dir(folder.0.join(KEYS)).unwrap();
        let beside = folder.0.join(format!("{FILE}.new"));
        if let Some(length) = left {
            std::fs::write(&beside, &whole[..length]).unwrap();
        }
        let first = folder.key_id();
        assert_eq!(folder.key_id(), first, "{left:?}");
        assert_eq!(folder.names().len(), 1, "{left:?}: cleaned up");
        assert_eq!(mode(&folder.0.join(KEYS)), 0o700, "{left:?}");
    }
}

#[test]
fn no_link_is_followed_when_a_key_is_written() {
    let folder = Folder::new();
    let target = folder.0.join("target");
    std::fs::write(&target, "precious").unwrap();
    std::fs::create_dir(folder.0.join(KEYS)).unwrap();
    symlink(&target, folder.0.join(format!("{FILE}.new"))).unwrap();
    symlink(folder.0.join("nowhere"), folder.0.join(FILE)).unwrap();
    let first = folder.key_id();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    assert!(!folder.0.join("nowhere").exists());
    assert!(std::fs::symlink_metadata(folder.0.join(FILE)).unwrap().is_file(), "the link was replaced");
    assert_eq!(folder.key_id(), first);

    // The folder itself as a link: its owner may not be ours, so nothing is put there.
    let other = Folder::new();
    symlink(&folder.0, other.0.join(KEYS)).unwrap();
    let before = std::fs::read_dir(&folder.0).unwrap().count();
    sealing_key(&other.0, "node-3").unwrap();
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), before);
}

#[test]
fn where_nothing_can_be_written_a_node_has_a_key_that_ends_with_it() {
    let folder = Folder::new();
    let file = folder.0.join("file");
    std::fs::write(&file, "x").unwrap();
    for state_dir in [file, PathBuf::from("/proc/iicp-state")] {
        let [first, second] = [(); 2].map(|()| sealing_key(&state_dir, NODE).unwrap().key_id().to_owned());
        assert_ne!(first, second, "{}", state_dir.display());
    }
}

#[test]
fn nodes_that_start_at_the_same_time_have_one_key() {
    let folder = Folder::new();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| folder.key_id())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

/// This test program again, as a child that only does what `body` names.
fn child(state_dir: &Path, shell: &str) -> Command {
    let mut child = Command::new("sh");
    child.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "state::tests::body_of_a_child"]);
    child.env("IICP_STATE_TEST", state_dir).stdout(Stdio::null()).stderr(Stdio::null());
    child
}

/// Makes keys for one node after the other; fails if it has a key and no file.
#[test]
#[ignore = "only as a child of other tests"]
fn body_of_a_child() {
    let state_dir = PathBuf::from(std::env::var_os("IICP_STATE_TEST").unwrap());
    let most = std::env::var("IICP_STATE_TEST_MOST").map_or(usize::MAX, |most| most.parse().unwrap());
    for n in 0..most {
        sealing_key(&state_dir, &format!("node-{n}")).unwrap();
    }
}

/// S23, full disk: no byte can be written, as the system enforces it.
#[test]
fn on_a_full_disk_a_node_starts_and_leaves_no_torn_file() {
    let folder = Folder::new();
    let status = child(&folder.0, "trap '' XFSZ; ulimit -f 0;").env("IICP_STATE_TEST_MOST", "3").status().unwrap();
    assert!(status.success(), "it has a key without a file: {status}");
    assert_eq!(folder.names(), Vec::<String>::new());
    let status = child(&folder.0, "").env("IICP_STATE_TEST_MOST", "3").status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(folder.names().len(), 3, "that the limit was what kept them away");
}

/// K13, a disk that is mounted read-only, which no permission of root's gets round: what is there is used, and what cannot be
/// kept ends with the process.
#[test]
fn on_a_read_only_disk_a_node_starts_and_keeps_the_key_that_it_has() {
    const READ_ONLY: &str = r#"mount --bind "$IICP_STATE_TEST" "$IICP_STATE_TEST" &&
        mount -o remount,ro,bind "$IICP_STATE_TEST" && ! touch "$IICP_STATE_TEST/written" && exec "$0" "$@""#;
    let folder = Folder::new();
    let status = child(&folder.0, "").env("IICP_STATE_TEST_MOST", "1").status().unwrap();
    assert!(status.success(), "{status}");
    let kept = std::fs::read(folder.file()).unwrap();
    // Its own view of the disks: nobody else sees the mount, and it needs no root.
    let mut within = Command::new("unshare");
    within.args(["--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY]);
    within.arg(std::env::current_exe().unwrap()).args(["--ignored", "--exact", "state::tests::body_of_a_child"]);
    within.env("IICP_STATE_TEST", &folder.0).env("IICP_STATE_TEST_MOST", "3");
    let ended = within.output().unwrap();
    assert!(
        ended.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
    assert_eq!(folder.names().len(), 1, "nothing was written");
    assert_eq!(std::fs::read(folder.file()).unwrap(), kept);
    assert!(!folder.0.join("written").exists());
}

/// S23, kill -9 between the steps: whatever file is there is whole, and the next start goes on.
#[test]
fn a_start_that_is_killed_leaves_whole_keys_only() {
    let folder = Folder::new();
    let mut most = 0;
    for round in 0..100_u64 {
        let mut child = child(&folder.0, "").spawn().unwrap();
        // Somewhere in its work; where exactly is the scheduler's to choose.
        let begun = std::time::Instant::now();
        while folder.0.join(KEYS).read_dir().map_or(0, Iterator::count) <= most
            && begun.elapsed() < std::time::Duration::from_secs(20)
        {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 37 % 2_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let names = folder.names();
        most = names.len();
        for name in names.iter().filter(|name| !name.ends_with(".new")) {
            assert!(keys::kept::<NodeKey>(&folder.0.join(KEYS).join(name)).unwrap().is_some(), "{name}");
        }
        assert!(names.iter().filter(|name| name.ends_with(".new")).count() <= 1, "{names:?}");
    }
    assert!(most > 100, "{most} keys were made");
}
