use std::{fs, path::Path, time::Instant};

use super::*;

/// Much more than a run takes, on a machine that is busy.
const LONG: Duration = Duration::from_mins(1);

/// A script that is read by the shell: a file that was just written can't always be executed at once (ETXTBSY).
fn script(directory: &Path, text: &str) -> DnsCommand {
    let path = directory.join("dns.sh");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let folder = directory.to_str().unwrap().to_owned();
    DnsCommand { program: "/bin/sh".into(), arguments: vec![path, folder] }
}

async fn present(command: &DnsCommand, timeout: Duration) -> Result<(), DnsError> {
    run(command, timeout, ("_acme-challenge.example.com", "-v*lue $(x)"), Change::Add).await
}

fn exists(pid: i32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

/// The process ids that a script wrote to `pids`, one a line, once there are as many.
async fn pids(directory: &Path, count: usize) -> Vec<i32> {
    let deadline = Instant::now() + LONG;
    loop {
        let text = fs::read_to_string(directory.join("pids")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let pids: Vec<i32> = whole.lines().map(|line| line.parse().unwrap()).collect();
        if pids.len() == count {
            return pids;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn gone(pids: &[i32]) {
    let deadline = Instant::now() + LONG;
    while pids.iter().any(|pid| exists(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_program_gets_arguments_and_a_small_environment() {
    let directory = tempfile::tempdir().unwrap();
    let command = script(
        directory.path(),
        "cd \"$1\"; shift; printf '%s\\n' \"$@\" > arguments; env > environment; cat > input",
    );
    present(&command, LONG).await.unwrap();
    let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
    assert_eq!(read("arguments"), "present\n_acme-challenge.example.com\n-v*lue $(x)\n");
    assert_eq!(read("input"), "");
    let environment = read("environment");
    let mut keys: Vec<_> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    // The shell's own.
    keys.retain(|key| !["PWD", "OLDPWD", "SHLVL", "_"].contains(key));
    keys.sort_unstable();
    let mut expected = vec!["TIDEGATE_DNS_ACTION", "TIDEGATE_DNS_NAME", "TIDEGATE_DNS_VALUE"];
    expected.extend(KEPT_VARIABLES.iter().filter(|key| std::env::var_os(key).is_some()));
    expected.sort_unstable();
    assert_eq!(keys, expected);
    for line in [
        "TIDEGATE_DNS_ACTION=present",
        "TIDEGATE_DNS_NAME=_acme-challenge.example.com",
        "TIDEGATE_DNS_VALUE=-v*lue $(x)",
    ] {
        assert!(environment.lines().any(|known| known == line), "{line}");
    }
    run(&command, LONG, ("a.example", "v"), Change::Remove).await.unwrap();
    assert_eq!(read("arguments"), "clean-up\na.example\nv\n");
}

#[tokio::test]
async fn a_program_that_fails_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let command = script(directory.path(), "printf 'no such zone\\n\\033[1mat all\\n' >&2; exit 3");
    let error = present(&command, LONG).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the command /bin/sh present ended with exit status: 3: no such zone  [1mat all"
    );
    let command = script(directory.path(), "kill -9 $$");
    let error = present(&command, LONG).await.unwrap_err().to_string();
    assert!(error.contains("signal: 9"), "{error}");
}

#[tokio::test]
async fn of_a_long_complaint_the_beginning_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    // More than a pipe holds: who does not read on would wait for ever.
    let command = script(directory.path(), "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1");
    match present(&command, LONG).await {
        Err(DnsError::CommandFailed { stderr, .. }) => {
            assert_eq!(stderr, "x".repeat(MAX_STDERR) + "…");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let command = DnsCommand { program: "/nonexistent/dns".into(), arguments: Vec::new() };
    let error = present(&command, LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "the command /nonexistent/dns can't be run");
}

/// Writes its own id and that of a child, then stays.
const STAYS: &str = "cd \"$1\"; echo asked >&2; sleep 600 & echo $$ >> pids; echo $! >> pids; wait";

#[tokio::test]
async fn a_program_past_its_time_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let command = script(directory.path(), STAYS);
    // Whether the script got so far within the time is up to the machine.
    for seconds in [1, 5, 30] {
        let error = present(&command, Duration::from_secs(seconds)).await.unwrap_err();
        let DnsError::CommandTimeout { stderr, .. } = error else { panic!("{error:?}") };
        let text = fs::read_to_string(directory.path().join("pids")).unwrap_or_default();
        if text.lines().count() == 2 {
            assert_eq!(stderr, "asked");
            gone(&pids(directory.path(), 2).await).await;
            return;
        }
        let _ = fs::remove_file(directory.path().join("pids"));
    }
    panic!("the script never ran");
}

#[tokio::test]
async fn a_program_nobody_waits_for_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let command = script(directory.path(), STAYS);
    let task = tokio::spawn(async move { present(&command, LONG).await });
    let pids = pids(directory.path(), 2).await;
    assert!(pids.iter().all(|pid| exists(*pid)));
    task.abort();
    gone(&pids).await;
}

#[tokio::test]
async fn a_process_left_behind_does_not_hold_up() {
    let directory = tempfile::tempdir().unwrap();
    let command = script(directory.path(), "cd \"$1\"; sleep 600 & echo $! > pids");
    let started = Instant::now();
    present(&command, 2 * LONG).await.unwrap();
    assert!(started.elapsed() < LONG);
    let pid = Pid::from_raw(pids(directory.path(), 1).await[0]).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}
