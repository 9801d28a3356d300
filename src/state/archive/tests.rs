use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{unpack::hex, *};

const PASSPHRASE: &str = "tide and gate";

fn passphrase() -> Passphrase {
    Passphrase::to_seal(PASSPHRASE).unwrap()
}

/// A state directory with these files.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let whole = folder.path().join(path);
        fs::create_dir_all(whole.parent().unwrap()).unwrap();
        fs::write(whole, content).unwrap();
    }
    folder
}

fn gather_all(state_dir: &Path) -> Result<Gathered, ArchiveError> {
    gather(state_dir, Limits::default(), &mut |_| {})
}

fn backup_of(state_dir: &Path) -> Vec<u8> {
    let gathered = gather_all(state_dir).unwrap();
    let made_at = "2026-11-21T07:42:16.123Z".to_owned();
    let (bytes, _) =
        seal(&gathered, made_at, &passphrase(), WorkFactor::CHEAP, Vec::new(), &mut |_| {})
            .unwrap();
    bytes
}

/// The files of a backup.
fn opened(backup: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
    opened_within(backup, Limits::default())
}

fn opened_within(backup: &[u8], limits: Limits) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
    let mut files = Vec::new();
    unpack(backup, &passphrase(), limits, &mut |path, content| {
        files.push((path.to_owned(), content.to_owned()));
        Ok(())
    })?;
    Ok(files)
}

fn encrypted(plain: &[u8]) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(PASSPHRASE.into());
    recipient.set_work_factor(4);
    age::encrypt(&recipient, plain).unwrap()
}

/// A tar that a tool of ours would not make.
struct Crafted {
    tar: tar::Builder<Vec<u8>>,
}

impl Crafted {
    fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// With an index of these files: path, size, content that is hashed.
    fn indexed(files: &[(&str, u64, &[u8])]) -> Self {
        let files: Vec<_> = files
            .iter()
            .map(|(path, bytes, content)| {
                let sha256 = hex(&Sha256::digest(content));
                serde_json::json!({ "path": path, "bytes": bytes, "sha256": sha256 })
            })
            .collect();
        let index = serde_json::json!({
            "version": 1, "tidegate": "0.1.0", "made_at": "2026-11-21T07:42:16Z", "files": files,
        });
        Self::new().member(INDEX, tar::EntryType::Regular, index.to_string().as_bytes())
    }

    /// A member whose path is not looked at.
    fn member(mut self, path: &str, kind: tar::EntryType, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.member(path, tar::EntryType::Regular, content)
    }

    fn sealed(self) -> Vec<u8> {
        encrypted(&self.tar.into_inner().unwrap())
    }
}

#[test]
fn what_is_state_comes_back_as_it_was() {
    let long = format!("acme/certificates/{}/{}.json", "d".repeat(200), "f".repeat(200));
    let big = vec![7; 200_000];
    let state = directory(&[
        ("last-good-configuration.json", b"{}"),
        ("internal-ca/ca.pem", b"certificate"),
        ("internal-ca/ca-key.pem", b"key"),
        ("empty", b""),
        (&long, &big),
        // A folder or a host may have such a name.
        ("acme/shop.log/cert.json", b"kept"),
        ("acme/lock/.hidden", b"kept"),
        // Never state.
        ("internal-ca/lock", b"x"),
        ("acme/ledger.lock", b"x"),
        ("access.log", b"x"),
        (".new-abc", b"x"),
        ("acme/.new-order/file", b"x"),
        (".tmpAbCdEf", b"x"),
    ]);
    let _socket = UnixListener::bind(state.path().join("hand-over.sock")).unwrap();
    symlink("/etc/passwd", state.path().join("link")).unwrap();
    symlink("/etc", state.path().join("acme/folder")).unwrap();

    let gathered = gather_all(state.path()).unwrap();
    let left_out: Vec<_> = gathered.left_out.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(left_out, [state.path().join("acme/folder"), state.path().join("link")]);

    let mut expected: Vec<(String, Vec<u8>)> = vec![
        ("acme/lock/.hidden".into(), b"kept".to_vec()),
        ("acme/shop.log/cert.json".into(), b"kept".to_vec()),
        (long, big),
        ("empty".into(), Vec::new()),
        ("internal-ca/ca-key.pem".into(), b"key".to_vec()),
        ("internal-ca/ca.pem".into(), b"certificate".to_vec()),
        ("last-good-configuration.json".into(), b"{}".to_vec()),
    ];
    expected.sort();
    let found = opened(&backup_of(state.path())).unwrap();
    let paths = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(paths(&found), paths(&expected));
    assert!(found == expected, "a content differs");
}

#[test]
fn a_backup_is_a_tar_in_age_that_other_tools_open() {
    let state = directory(&[("internal-ca/ca.pem", b"certificate")]);
    let identity = age::scrypt::Identity::new(PASSPHRASE.into());
    let plain = age::decrypt(&identity, &backup_of(state.path())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(&*plain).unpack(folder.path()).unwrap();
    let file = folder.path().join("state/internal-ca/ca.pem");
    assert_eq!(fs::read(file).unwrap(), b"certificate");
    let index = fs::read(folder.path().join(INDEX)).unwrap();
    let index: Contents = serde_json::from_slice(&index).unwrap();
    assert_eq!(index.tidegate, env!("CARGO_PKG_VERSION"));
    assert_eq!((index.files.len(), index.bytes()), (1, 11));
}

#[test]
fn nothing_and_too_much_are_refused() {
    let empty = directory(&[("access.log", b"x")]);
    assert!(matches!(gather_all(empty.path()), Err(ArchiveError::Nothing { .. })));
    let missing = gather_all(&empty.path().join("missing"));
    assert!(matches!(missing, Err(ArchiveError::Read { .. })));

    let state = directory(&[("a", b"12345"), ("b/c", b"12345")]);
    let within = |files, bytes| {
        gather(state.path(), Limits { files, bytes }, &mut |_| {})
            .map(|gathered| gathered.files.len())
    };
    assert_eq!(within(3, 10).unwrap(), 2);
    assert!(matches!(within(2, 10), Err(ArchiveError::TooMany { limit: 2 })));
    assert!(matches!(within(3, 9), Err(ArchiveError::TooLarge { limit: 9 })));

    // The other side has the same limits.
    let backup = backup_of(state.path());
    assert_eq!(opened_within(&backup, Limits { files: 2, bytes: 10 }).unwrap().len(), 2);
    let many = opened_within(&backup, Limits { files: 1, bytes: 10 });
    assert!(matches!(many, Err(ArchiveError::TooMany { limit: 1 })));
    let large = opened_within(&backup, Limits { files: 2, bytes: 9 });
    assert!(matches!(large, Err(ArchiveError::TooLarge { limit: 9 })));
}

#[test]
fn more_bytes_than_any_backup_has_end_the_reading() {
    // Past the limit, and not in the index: a reader that only counts what is listed would go on.
    let listed: &[(&str, u64, &[u8])] = &[];
    let large = vec![0; (MAX_INDEX_BYTES + 8_192) as usize];
    let backup = Crafted::indexed(listed).member("x", tar::EntryType::GNULongName, &large);
    let error = opened_within(&backup.sealed(), Limits { files: 1, bytes: 1 }).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_wrong_passphrase_and_other_files_are_told_apart() {
    let state = directory(&[("a", b"1")]);
    let backup = backup_of(state.path());
    let open = |bytes: &[u8], passphrase: &str| {
        let passphrase = Passphrase::to_open(passphrase).unwrap();
        unpack(bytes, &passphrase, Limits::default(), &mut |_, _| Ok(())).unwrap_err()
    };
    assert!(matches!(open(&backup, "wrong horse"), ArchiveError::WrongPassphrase));
    assert!(matches!(open(b"PK\x03\x04 something else\n", PASSPHRASE), ArchiveError::NotEncrypted));
    assert!(matches!(open(&encrypted(b""), PASSPHRASE), ArchiveError::NoIndex));
    assert!(matches!(open(&encrypted(b"no tar"), PASSPHRASE), ArchiveError::Damaged(_)));
    let other = Crafted::new().file("other.txt", b"x").sealed();
    assert!(matches!(open(&other, PASSPHRASE), ArchiveError::NoIndex));
    let key = age::x25519::Identity::generate();
    let for_a_key = age::encrypt(&key.to_public(), b"x").unwrap();
    assert!(matches!(open(&for_a_key, PASSPHRASE), ArchiveError::NotByPassphrase));

    // The work is asked for in the open: it must not be done before it is judged.
    let head = backup.split(|byte| *byte == b'\n').nth(1).unwrap();
    let dear = [head.strip_suffix(b" 4").unwrap(), b" 30"].concat();
    let at = backup.windows(head.len()).position(|window| window == head).unwrap();
    let dear = [&backup[..at], &dear, &backup[at + head.len()..]].concat();
    let error = open(&dear, PASSPHRASE);
    assert!(matches!(error, ArchiveError::Dear { required: 30 }), "{error:?}");
    assert!(error.to_string().contains("4096 times the work"), "{error}");

    let later = Crafted::new().file(INDEX, b"{\"version\":2,\"else\":1}").sealed();
    assert!(matches!(open(&later, PASSPHRASE), ArchiveError::Version { found: 2 }));
    let broken = Crafted::new().file(INDEX, b"{\"version\":1,\"else\":1}").sealed();
    assert!(matches!(open(&broken, PASSPHRASE), ArchiveError::Index(_)));
}

#[test]
fn a_backup_that_is_cut_off_or_changed_anywhere_is_refused() {
    let state = directory(&[("a", b"one"), ("b", &vec![3; 70_000])]);
    let backup = backup_of(state.path());
    // Many places of the head, then some of each part, and just before the end.
    let places = (0..400).step_by(7).chain((400..backup.len()).step_by(4_999));
    let places = places.chain([backup.len() - 1]);
    for end in places {
        let error = opened(&backup[..end]).unwrap_err();
        let is_told = matches!(error, ArchiveError::Damaged(_) | ArchiveError::NotEncrypted);
        assert!(is_told, "cut at {end}: {error:?}");
        let mut changed = backup.clone();
        changed[end] ^= 1;
        assert!(opened(&changed).is_err(), "changed at {end}");
    }
    let longer = [&backup[..], b"x"].concat();
    assert!(matches!(opened(&longer), Err(ArchiveError::Damaged(_))));
}

#[test]
fn a_tar_that_ends_early_or_goes_on_is_refused() {
    let listed: &[(&str, u64, &[u8])] = &[("a", 1, b"1")];
    let whole = Crafted::indexed(listed).file("state/a", b"1").tar.into_inner().unwrap();
    assert_eq!(opened(&encrypted(&whole)).unwrap().len(), 1);
    for end in (0..whole.len() - 1_024).step_by(100) {
        assert!(opened(&encrypted(&whole[..end])).is_err(), "cut at {end}");
    }
    let hidden = [&whole[..], b"hidden"].concat();
    let error = opened(&encrypted(&hidden)).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged(_)), "{error:?}");
}

#[test]
fn hostile_members_are_refused() {
    use tar::EntryType;

    let one: &[(&str, u64, &[u8])] = &[("a", 1, b"1")];
    let listing = |path: &str| Crafted::indexed(&[(path, 1, b"1")]);
    let row = |crafted: Crafted, path: &str, reason: &'static str| {
        (crafted.sealed(), path.to_owned(), reason)
    };
    let mut rows = vec![
        row(Crafted::indexed(one).file("state/a", b"1").file("state/a", b"1"), "state/a", "twice"),
        row(Crafted::indexed(one).file("state/b", b"1"), "state/b", "not in its list"),
        row(Crafted::indexed(one).file("a", b"1"), "a", "not in its list"),
        row(Crafted::indexed(one).file("/etc/passwd", b"1"), "/etc/passwd", "not in its list"),
        row(Crafted::indexed(one).file("state/../a", b"1"), "state/../a", "not in its list"),
        row(Crafted::indexed(one), "a", "is in its list, and not in it"),
        row(Crafted::indexed(one).file("state/a", b"12"), "state/a", "another size"),
        row(Crafted::indexed(one).file("state/a", b"2"), "state/a", "another content"),
        row(Crafted::indexed(&[one[0], one[0]]), "a", "in its list twice"),
        row(Crafted::indexed(&[one[0], ("a/b", 1, b"1")]), "a", "is a file and a folder"),
    ];
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
    ] {
        rows.push(row(Crafted::indexed(one).member("state/a", kind, b""), "state/a", "regular"));
    }
    for path in ["/a", "..", "../a", "b/../../a", "b/..", "./a", "b//a", "a/", "."] {
        rows.push(row(listing(path).file("state/a", b"1"), path, "leads out"));
    }
    rows.push(row(listing(""), "", "is no path"));
    rows.push(row(listing("a\0b"), "a\0b", "is no path"));
    rows.push(row(listing(&"x/".repeat(600)), &"x/".repeat(600), "too long"));
    for (backup, expected, reason) in rows {
        let error = opened(&backup).unwrap_err();
        let ArchiveError::Member { path, reason: found } = &error else {
            panic!("{expected}: {error:?}");
        };
        assert_eq!(*path, expected);
        assert!(found.contains(reason), "{expected}: {found}");
    }
}

#[test]
fn passphrases_that_could_be_guessed_are_refused() {
    assert_eq!(Passphrase::to_seal("").unwrap_err(), PassphraseError::Empty);
    assert_eq!(Passphrase::to_open("").unwrap_err(), PassphraseError::Empty);
    // Seven characters, fourteen bytes.
    assert_eq!(Passphrase::to_seal("äääääää").unwrap_err(), PassphraseError::Short);
    assert!(Passphrase::to_seal("12345678").is_ok());
    assert!(Passphrase::to_open("short").is_ok());
    assert!(!format!("{:?}", passphrase()).contains("tide"));
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_staged_folder_takes_the_place_of_nothing_and_of_an_empty_one() {
    for exists in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("state");
        if exists {
            fs::create_dir(&target).unwrap();
        }
        let mut staging = Staging::beside(&target, false).unwrap();
        staging.write("a", b"1").unwrap();
        staging.write("b/c/d", b"2").unwrap();
        staging.write("b/c/e", b"3").unwrap();
        assert_eq!(names(parent.path()).len(), 1 + usize::from(exists), "beside it");
        assert!(!exists || names(&target).is_empty(), "not touched yet");
        assert_eq!(staging.put(Some("now")).unwrap(), None);
        assert_eq!(names(parent.path()), ["state"]);
        assert_eq!(names(&target), ["a", "b"]);
        assert_eq!(fs::read(target.join("b/c/d")).unwrap(), b"2");
        let mode =
            |path: &str| fs::metadata(target.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("b"), mode("b/c"), mode("b/c/d")), (0o700, 0o700, 0o700, 0o600));
    }
}

#[test]
fn what_was_there_is_moved_aside_or_stays() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("state");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), b"old").unwrap();
    assert!(matches!(Staging::beside(&target, false), Err(PlaceError::NotEmpty { .. })));
    // It may have been empty when it was looked at first.
    let mut staging = Staging::beside(&target, true).unwrap();
    staging.write("new", b"new").unwrap();
    assert!(matches!(staging.put(None), Err(PlaceError::NotEmpty { .. })));
    assert_eq!(names(parent.path()), ["state"]);
    assert_eq!(names(&target), ["old"]);

    // Dropped, it leaves nothing.
    let mut staging = Staging::beside(&target, true).unwrap();
    staging.write("new", b"new").unwrap();
    drop(staging);
    assert_eq!(names(parent.path()), ["state"]);

    // Twice within a second.
    for (nth, (new, old)) in [("one", "old"), ("two", "one")].into_iter().enumerate() {
        let mut staging = Staging::beside(&target, true).unwrap();
        staging.write(new, b"new").unwrap();
        let aside = staging.put(Some("T")).unwrap().unwrap();
        let expected = ["state.before-restore-T", "state.before-restore-T-2"][nth];
        assert_eq!(aside, fs::canonicalize(parent.path()).unwrap().join(expected));
        assert_eq!(names(&target), [new]);
        assert_eq!(names(&aside), [old]);
    }
    assert_eq!(names(parent.path()).len(), 3);
}

#[test]
fn links_to_a_state_directory_stay_and_other_things_are_no_folder() {
    let parent = tempfile::tempdir().unwrap();
    let real = parent.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = parent.path().join("link");
    symlink("real", &link).unwrap();
    let mut staging = Staging::beside(&link, false).unwrap();
    staging.write("a", b"1").unwrap();
    staging.put(None).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(names(&real), ["a"]);

    fs::write(parent.path().join("file"), b"").unwrap();
    let error = Staging::beside(&parent.path().join("file"), true).unwrap_err();
    assert!(matches!(error, PlaceError::NotAFolder { .. }), "{error}");
    symlink("nowhere", parent.path().join("dangling")).unwrap();
    assert!(Staging::beside(&parent.path().join("dangling"), true).is_err());
    assert!(Staging::beside(&parent.path().join("no/parent"), true).is_err());
    // A mounted file system: every Linux has this one.
    let error = Staging::beside(Path::new("/"), true).unwrap_err();
    assert!(matches!(error, PlaceError::Mounted { .. }), "{error}");
}
