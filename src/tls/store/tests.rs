use std::time::Duration;

use super::*;
use crate::tls::{
    files::load_files,
    fixture::{Authority, DAY, Files, Leaf, eventually},
};

const QUICK: Timing = Timing {
    poll: Duration::from_millis(5),
    still: Duration::from_millis(5),
    renewal: Duration::from_millis(5),
};

/// So slow that only the test offers anything.
const NEVER: Timing = Timing { poll: DAY, still: DAY, renewal: DAY };

fn certificate(files: &Files, timing: Timing) -> Arc<Certificate> {
    let now = SystemTime::now();
    let content = Pair::read(&files.chain, &files.key).fingerprint();
    let loaded = load_files(&files.chain, &files.key, now).unwrap();
    let handle = Handle::current();
    Certificate::from_files(&files.chain, &files.key, content, loaded, &handle, timing)
}

fn offer(certificate: &Certificate, files: &Files) {
    certificate.offer(Pair::read(&files.chain, &files.key), SystemTime::now());
}

fn write(files: &Files, leaf: &Leaf) {
    files.write(&leaf.pem, &leaf.key);
}

#[tokio::test]
async fn a_new_pair_takes_the_place_of_the_old_one() {
    let root = Authority::root("r");
    let files = Files::of(&root.leaf(&["old.test"]));
    let certificate = certificate(&files, QUICK);
    assert_eq!(certificate.facts().names, ["old.test"]);
    write(&files, &root.leaf(&["new.test"]));
    eventually("the new pair", || certificate.facts().names == ["new.test"]).await;
    assert_eq!(certificate.facts().last_error, None);
}

#[tokio::test]
async fn a_broken_pair_keeps_the_old_one_until_it_is_mended() {
    let root = Authority::root("r");
    let files = Files::of(&root.leaf(&["old.test"]));
    let certificate = certificate(&files, QUICK);
    std::fs::remove_file(&files.key).unwrap();
    eventually("the error", || certificate.facts().last_error.is_some()).await;
    let facts = certificate.facts();
    assert!(facts.last_error.unwrap().contains("key.pem does not exist"));
    assert_eq!(facts.names, ["old.test"]);
    write(&files, &root.leaf(&["new.test"]));
    eventually("the new pair", || certificate.facts().names == ["new.test"]).await;
    assert_eq!(certificate.facts().last_error, None);
}

#[tokio::test]
async fn whatever_is_broken_keeps_the_old_one() {
    let root = Authority::root("r");
    let old = root.leaf(&["old.test"]);
    let new = root.leaf(&["new.test"]);
    let files = Files::of(&old);
    let certificate = certificate(&files, NEVER);
    for (chain, key) in [
        (&new.pem, &old.key),
        (&old.pem, &new.key),
        (&String::new(), &new.key),
        (&new.pem, &String::new()),
        (&new.pem[..100].to_owned(), &new.key),
    ] {
        files.write(chain, key);
        offer(&certificate, &files);
        let facts = certificate.facts();
        assert_eq!(facts.names, ["old.test"]);
        assert!(facts.last_error.is_some());
    }
    // Put back as it was: nothing is wrong any more.
    write(&files, &old);
    offer(&certificate, &files);
    assert_eq!(certificate.facts().last_error, None);
}

#[tokio::test]
async fn a_refused_content_is_not_tried_again_unless_time_mends_it() {
    let root = Authority::root("r");
    let files = Files::of(&root.leaf(&["old.test"]));
    let certificate = certificate(&files, NEVER);
    let content = || Pair::read(&files.chain, &files.key).fingerprint();
    let now = SystemTime::now();
    write(&files, &root.leaf_between(&["dead.test"], now - DAY * 2, now - DAY));
    assert!(!certificate.freshness().is_settled(content()));
    offer(&certificate, &files);
    assert!(certificate.freshness().is_settled(content()));

    write(&files, &root.leaf_between(&["early.test"], now + DAY, now + DAY * 2));
    offer(&certificate, &files);
    assert!(certificate.facts().last_error.unwrap().contains("not valid before"));
    assert!(!certificate.freshness().is_settled(content()));
    let pair = Pair::read(&files.chain, &files.key);
    certificate.offer(pair, now + DAY + DAY / 2);
    assert_eq!(certificate.facts().names, ["early.test"]);
    assert_eq!(certificate.facts().last_error, None);
}

#[tokio::test]
async fn an_issued_certificate_is_renewed_with_a_third_left() {
    let state = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Arc::new(InternalAuthority::open(state.path(), now).unwrap());
    let hosts: Vec<HostPattern> = vec!["a.test".parse().unwrap()];
    let source = CertificateSource::Internal;
    let handle = Handle::current();
    let certificate =
        Certificate::issued(source, hosts.clone(), authority.clone(), now, &handle, NEVER).unwrap();
    let first = certificate.facts().not_after;
    certificate.renew_if_due(&hosts, &authority, now + DAY * 19);
    assert_eq!(certificate.facts().not_after, first);
    certificate.renew_if_due(&hosts, &authority, now + DAY * 20);
    assert_eq!(certificate.facts().not_after, first + 20 * 86_400);
}

#[tokio::test]
async fn the_renewal_task_runs_by_the_calendar() {
    let state = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Arc::new(InternalAuthority::open(state.path(), now).unwrap());
    let hosts = vec!["a.test".parse().unwrap()];
    let (source, then) = (CertificateSource::Internal, now - DAY * 25);
    let certificate =
        Certificate::issued(source, hosts, authority, then, &Handle::current(), QUICK).unwrap();
    let first = certificate.current.load().first.not_after;
    eventually("the renewal", || certificate.facts().not_after > first).await;
}

#[tokio::test]
async fn the_task_ends_with_the_certificate() {
    let files = Files::of(&Authority::root("r").leaf(&["a.test"]));
    let certificate = certificate(&files, NEVER);
    let task = certificate.task.get().unwrap().clone();
    assert!(!task.is_finished());
    assert_eq!(Arc::strong_count(&certificate), 1, "the task holds it weakly");
    drop(certificate);
    eventually("the end of the task", || task.is_finished()).await;
}

#[tokio::test]
async fn each_broken_content_is_warned_of_once() {
    let root = Authority::root("r");
    let old = root.leaf(&["old.test"]);
    let files = Files::of(&old);
    let certificate = certificate(&files, NEVER);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let warned = tracing::subscriber::with_default(subscriber, || {
        let mut warned = Vec::new();
        let now = SystemTime::now();
        let early = root.leaf_between(&["a.test"], now + DAY, now + DAY * 2);
        for (chain, key) in
            [(&old.pem, &String::new()), (&String::new(), &old.key), (&early.pem, &early.key)]
        {
            files.write(chain, key);
            for _ in 0..3 {
                offer(&certificate, &files);
            }
            warned.push(log.text().matches("certificate not replaced").count());
        }
        warned
    });
    assert_eq!(warned, [1, 2, 3]);
    let text = log.text();
    assert!(!text.contains(&old.key.lines().nth(1).unwrap()[8..40]), "{text}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
