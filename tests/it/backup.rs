//! Backups: the state comes back whole or not at all, whatever the file is and whenever the process is killed.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    assert_eventually,
    harness::{Client, Edge, Tls},
};

const PASSPHRASE: &str = "tide and gate";
/// Whatever load the machine has.
const SOON: Duration = Duration::from_secs(30);

/// A folder with a state directory in it, a passphrase's file, and a place for backups.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("var")).unwrap();
        fs::write(place.path("passphrase"), format!("{PASSPHRASE}\n")).unwrap();
        place
    }

    /// With some state in it, and a backup of that.
    fn backed_up() -> Self {
        let place = Self::new();
        place.write("internal-ca/ca.pem", b"certificate");
        place.write("big", &vec![7; 300_000]);
        let output = place.run("backup", &[&place.text("edge.age")]);
        assert!(output.status.success(), "{output:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn state(&self) -> PathBuf {
        self.path("var/state")
    }

    fn write(&self, path: &str, content: &[u8]) {
        let whole = self.state().join(path);
        fs::create_dir_all(whole.parent().unwrap()).unwrap();
        fs::write(whole, content).unwrap();
    }

    /// The command without a passphrase.
    fn bare(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process
            .arg(command)
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state())
            .env("TIDEGATE_TEST_CHEAP_SCRYPT", "1")
            .stdin(Stdio::null());
        process
    }

    fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = self.bare(command, arguments);
        process.arg("--passphrase-file").arg(self.path("passphrase"));
        process
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        self.command(command, arguments).output().unwrap()
    }

    /// All files of the state, and what stands beside it: a failure changes none of it.
    fn picture(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files_in(&self.path("var"))
    }

    /// Restores, which must fail with this text and change nothing.
    fn refuses(&self, arguments: &[&str], expected: &str) {
        let before = self.picture();
        refused(&self.run("restore", arguments), expected);
        assert_eq!(self.picture(), before, "{expected}");
    }
}

/// Files and folders by path; a folder has no content.
fn files_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "{expected}: {said}");
    assert!(!said.contains(PASSPHRASE), "{said}");
}

/// A site with a certificate of the internal authority, whose state is at `place`.
fn internal(place: &Place) -> String {
    format!(
        r#"
        [server]
        state_dir = "{}"
        drain = "2s"
        lame_duck = "0s"
        [sites.shop]
        hosts = ["localhost", "127.0.0.1"]
        certificate = {{ internal = true }}
        respond = {{ body = "served" }}
        "#,
        place.state().display()
    )
}

fn served_by(edge: &Edge, authority: &str) {
    let client: Client = edge.tls_client(Tls::trusting(authority).server_name("localhost"));
    let answer = client.host("localhost").get("/").send();
    assert_eq!(answer.assert_status(200).text(), "served");
}

#[test]
fn an_edge_has_its_authority_again_after_a_restore() {
    let place = Place::new();
    let backup = place.text("edge.age");
    let mut edge = Edge::spawn(&[], &internal(&place));
    let authority_file = place.state().join("internal-ca/ca.pem");
    let last_good = place.state().join("last-good-configuration.json");
    assert_eventually!(authority_file.exists() && last_good.exists(), within SOON);
    let authority = fs::read_to_string(&authority_file).unwrap();
    served_by(&edge, &authority);
    // While it runs: a backup is made, a restore is not.
    done(&place.run("backup", &[&backup]));
    place.refuses(&[&backup], "an edge runs");
    place.refuses(&[&backup, "--force"], "an edge runs");
    edge.signal_and_wait("TERM", SOON);

    let said = done(&place.run("backup", &[&backup, "--force"]));
    assert!(said.starts_with("3 files ("), "{said}");
    assert!(said.contains(&backup) && said.contains("var/state"), "{said}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let saved = fs::read(&last_good).unwrap();
    fs::remove_dir_all(place.state()).unwrap();

    let said = done(&place.run("restore", &[&backup]));
    assert!(said.starts_with("3 files (") && said.contains("var/state"), "{said}");
    assert_eq!(fs::read(&last_good).unwrap(), saved);
    let key = place.state().join("internal-ca/ca-key.pem");
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(place.state()).unwrap().permissions().mode() & 0o777, 0o700);
    let edge = Edge::spawn(&[], &internal(&place));
    served_by(&edge, &authority);
    assert_eq!(fs::read_to_string(&authority_file).unwrap(), authority);
}

#[test]
fn an_edge_that_was_killed_is_not_taken_for_one_that_runs() {
    let place = Place::new();
    let backup = place.text("edge.age");
    let edge = Edge::spawn(&[], &internal(&place));
    done(&place.run("backup", &[&backup]));
    edge.signal("KILL");
    drop(edge);
    assert!(place.state().join("hand-over.sock").exists(), "a killed edge leaves its socket");
    done(&place.run("restore", &[&backup, "--force"]));
}

#[test]
fn the_old_state_stays_unless_it_is_forced_and_is_moved_aside_then() {
    let place = Place::backed_up();
    let backup = place.text("edge.age");
    place.write("newer", b"newer");
    place.refuses(&[&backup], "is not empty; with --force");
    let old = files_in(&place.state()).len();
    let said = done(&place.run("restore", &[&backup, "--force"]));
    assert!(!place.state().join("newer").exists());
    assert_eq!(fs::read(place.state().join("internal-ca/ca.pem")).unwrap(), b"certificate");
    let beside: Vec<_> =
        fs::read_dir(place.path("var")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    let aside = beside.into_iter().find(|path| *path != place.state()).unwrap();
    let name = aside.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("state.before-restore-20") && name.ends_with('Z'), "{name}");
    assert!(said.contains(name), "{said}");
    assert_eq!(files_in(&aside).len(), old);
    assert_eq!(fs::read(aside.join("newer")).unwrap(), b"newer");
}

#[test]
fn a_wrong_passphrase_or_a_file_that_is_cut_off_changes_nothing() {
    let place = Place::backed_up();
    place.write("newer", b"newer");
    let backup = fs::read(place.path("edge.age")).unwrap();
    let given = place.text("given.age");
    for (end, expected) in [
        (0, "damaged or cut off"),
        (30, "damaged or cut off"),
        (backup.len() / 2, "damaged or cut off"),
        (backup.len() - 1, "damaged or cut off"),
    ] {
        fs::write(&given, &backup[..end]).unwrap();
        place.refuses(&[&given, "--force"], expected);
    }
    fs::write(&given, "something else, and no backup at all\n").unwrap();
    place.refuses(&[&given, "--force"], "it is not encrypted by age");
    place.refuses(&[&place.text("missing.age"), "--force"], "missing.age can't be read");
    fs::write(place.path("passphrase"), "wrong horse").unwrap();
    place.refuses(&[&place.text("edge.age"), "--force"], "the passphrase is wrong");
    refused(&place.run("restore", &["--list", &place.text("edge.age")]), "passphrase is wrong");
}

/// A backup with these members behind an index of `listed`; what a member's path is, is not looked at.
fn crafted(listed: &[&str], members: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let content = b"1";
    // Of that content: `printf 1 | sha256sum`.
    let sha256 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    let files: Vec<_> =
        listed.iter().map(|path| json!({ "path": path, "bytes": 1, "sha256": sha256 })).collect();
    let index = json!({ "version": 1, "tidegate": "0", "made_at": "then", "files": files });
    let index = index.to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let mut member = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        if kind != tar::EntryType::Regular {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    member("tidegate-backup.json", tar::EntryType::Regular, index.as_bytes());
    for (path, kind) in members {
        let is_file = *kind == tar::EntryType::Regular;
        member(path, *kind, if is_file { content } else { b"" });
    }
    let mut recipient = age::scrypt::Recipient::new(PASSPHRASE.into());
    recipient.set_work_factor(4);
    age::encrypt(&recipient, &tar.into_inner().unwrap()).unwrap()
}

#[test]
fn hostile_backups_change_nothing() {
    use tar::EntryType::{Char, Link, Regular, Symlink};

    let place = Place::backed_up();
    let given = place.text("given.age");
    let good = ("state/first", Regular);
    for (listed, members, expected) in [
        (vec!["first", "../evil"], vec![good, ("state/../evil", Regular)], "leads out"),
        (vec!["first", "/tmp/evil"], vec![good, ("/tmp/evil", Regular)], "leads out"),
        (vec!["first"], vec![good, ("state/../../evil", Regular)], "not in its list"),
        (vec!["first"], vec![good, good], "there twice"),
        (vec!["first", "link"], vec![good, ("state/link", Symlink)], "not a regular file"),
        (vec!["first", "link"], vec![good, ("state/link", Link)], "not a regular file"),
        (vec!["first", "device"], vec![good, ("state/device", Char)], "not a regular file"),
        (vec!["first", "gone"], vec![good], "is in its list, and not in it"),
        (vec!["first\u{1b}[2J"], vec![], "\\u{1b}"),
    ] {
        fs::write(&given, crafted(&listed, &members)).unwrap();
        place.refuses(&[&given, "--force"], expected);
    }
    // What is right with it is taken: the rows above fail for their own reason.
    fs::write(&given, crafted(&["first"], &[good])).unwrap();
    done(&place.run("restore", &[&given, "--force"]));
    assert_eq!(fs::read(place.state().join("first")).unwrap(), b"1");
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_state() {
    let place = Place::new();
    place.write("first", b"first");
    place.write("second", &vec![7; 300_000]);
    done(&place.run("backup", &[&place.text("edge.age")]));
    place.write("newer", b"newer");
    let old = files_in(&place.state());
    let backup = fs::read(place.path("edge.age")).unwrap();
    let mut restoring =
        place.command("restore", &["--force", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = restoring.stdin.take().unwrap();
    input.write_all(&backup[..backup.len() - 1]).unwrap();
    input.flush().unwrap();
    // The first file is there, and the last byte is not: it can't know yet that they are right.
    let staged = || {
        let mut entries =
            fs::read_dir(place.path("var")).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path != &place.state()).filter(|staged| staged.join("first").exists())
    };
    assert_eventually!(staged().is_some(), within SOON);
    assert_eq!(files_in(&place.state()), old);
    let staged = staged().unwrap();
    assert_eq!(fs::metadata(staged).unwrap().permissions().mode() & 0o777, 0o700);
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    drop(input);
    assert_eq!(files_in(&place.state()), old);
}

#[test]
fn a_backup_is_listed_without_being_restored() {
    let place = Place::backed_up();
    let backup = place.text("edge.age");
    let before = place.picture();
    let said = done(&place.run("restore", &["--list", &backup]));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("FILE"), "{said}");
    assert!(lines[1].starts_with("big ") && lines[1].ends_with("293.0 KiB"), "{said}");
    assert!(lines[2].starts_with("internal-ca/ca.pem") && lines[2].ends_with("11 B"), "{said}");
    assert!(said.contains("2 files (293.0 KiB), made by tidegate"), "{said}");
    let said = done(&place.run("restore", &["--list", "--json", &backup]));
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed["files"][1]["path"], "internal-ca/ca.pem");
    assert_eq!(listed["files"][1]["bytes"], 11);
    assert_eq!(place.picture(), before);
    let wrong = place.run("restore", &["--json", &backup]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_backup_goes_through_pipes() {
    let place = Place::backed_up();
    let output = place.run("backup", &["-"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("backed up to standard output"), "{said}");
    fs::remove_dir_all(place.state()).unwrap();
    let mut restoring = place
        .command("restore", &["-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    restoring.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    done(&restoring.wait_with_output().unwrap());
    assert_eq!(fs::read(place.state().join("internal-ca/ca.pem")).unwrap(), b"certificate");
}

#[test]
fn a_backup_replaces_only_what_it_may() {
    let place = Place::backed_up();
    let backup = place.text("edge.age");
    let before = fs::read(&backup).unwrap();
    refused(&place.run("backup", &[&backup]), "edge.age exists; --force replaces it");
    assert_eq!(fs::read(&backup).unwrap(), before);
    done(&place.run("backup", &[&backup, "--force"]));
    assert_ne!(fs::read(&backup).unwrap(), before);
    std::os::unix::fs::symlink(&backup, place.path("link")).unwrap();
    let link = place.text("link");
    refused(&place.run("backup", &[&link, "--force"]), "is no regular file");
    refused(&place.run("backup", &["/dev/null", "--force"]), "is no regular file");
    let inside = place.text("var/state/edge.age");
    refused(&place.run("backup", &[&inside]), "is in the state directory");
    let nowhere = place.text("no/folder/edge.age");
    refused(&place.run("backup", &[&nowhere]), "can't be written to");
    fs::remove_dir_all(place.state()).unwrap();
    refused(&place.run("backup", &[&backup, "--force"]), "state can't be read");
    assert!(fs::read(&backup).is_ok());
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().collect();
    assert_eq!(left.len(), 4, "no temporary file: {left:?}");
}

#[test]
fn the_passphrase_comes_from_a_file_the_environment_or_the_terminal() {
    let place = Place::backed_up();
    let backup = place.text("edge.age");
    let list = |process: &mut Command| done(&process.output().unwrap());
    let arguments = ["--list", backup.as_str()];
    list(place.bare("restore", &arguments).env("TIDEGATE_BACKUP_PASSPHRASE", PASSPHRASE));

    let other = place.text("other.age");
    for (passphrase, expected) in [("", "is empty"), ("1234567", "fewer than 8 characters")] {
        let mut process = place.bare("backup", &[&other]);
        process.env("TIDEGATE_BACKUP_PASSPHRASE", passphrase);
        refused(&process.output().unwrap(), expected);
        fs::write(place.path("passphrase"), format!("{passphrase}\r\n")).unwrap();
        refused(&place.run("backup", &[&other]), expected);
    }
    fs::write(place.path("passphrase"), "two lines\nof it\n").unwrap();
    refused(&place.run("backup", &[&other]), "more than one line");
    fs::write(place.path("passphrase"), "x".repeat(5_000)).unwrap();
    refused(&place.run("backup", &[&other]), "longer than 4096 bytes");
    assert!(!place.path("other.age").exists());

    // In a session of its own there is no terminal.
    let bare = place.bare("backup", &[&other]);
    let mut alone = Command::new("setsid");
    alone.arg("--wait").arg(bare.get_program()).args(bare.get_args()).stdin(Stdio::null());
    refused(&alone.output().unwrap(), "give it by --passphrase-file or TIDEGATE_BACKUP_PASSPHRASE");

    for (second, is_made) in [("another one", false), (PASSPHRASE, true)] {
        assert_eq!(typed(&place, &other, [PASSPHRASE, second]), is_made);
        assert_eq!(place.path("other.age").exists(), is_made);
    }
    let arguments = ["--list", other.as_str()];
    list(place.bare("restore", &arguments).env("TIDEGATE_BACKUP_PASSPHRASE", PASSPHRASE));
}

/// Makes a backup with a passphrase typed at a terminal; whether that was done.
fn typed(place: &Place, file: &str, answers: [&str; 2]) -> bool {
    let bare = place.bare("backup", &[file]);
    let words: Vec<String> = std::iter::once(bare.get_program())
        .chain(bare.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
        .env("TIDEGATE_TEST_CHEAP_SCRYPT", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    let mut screen = terminal.stdout.take().unwrap();
    let mut seen = Vec::new();
    for (prompt, answer) in
        ["Passphrase of the backup: ", "The same again: "].into_iter().zip(answers)
    {
        while !String::from_utf8_lossy(&seen).contains(prompt) {
            let mut byte = [0];
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        keys.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    screen.read_to_end(&mut seen).unwrap();
    terminal.wait().unwrap().success()
}

#[test]
fn the_state_directory_is_that_of_the_configuration() {
    let place = Place::backed_up();
    let backup = place.text("edge.age");
    let config = place.path("tidegate.toml");
    let run = |command: &str, arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg(command)
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .arg("--passphrase-file")
            .arg(place.path("passphrase"))
            .env("TIDEGATE_TEST_CHEAP_SCRYPT", "1")
            .output()
            .unwrap()
    };
    refused(&run("backup", &[&backup, "--force"]), "tidegate.toml can't be read");
    fs::write(&config, internal(&place)).unwrap();
    let said = done(&run("backup", &[&backup, "--force"]));
    assert!(said.contains("var/state"), "{said}");
    // A broken edit does not end the backups.
    fs::write(&config, format!("{}\nnonsense = 1\n", internal(&place))).unwrap();
    let output = run("backup", &[&backup, "--force"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("note:") && said.contains("is refused"), "{said}");
    fs::remove_dir_all(place.state()).unwrap();
    done(&run("restore", &[&backup]));
    assert!(place.state().join("big").exists());
}
