//! The thread that writes the audit log's file.
//!
//! Each line is one write, appended, and flushed before the next one is taken. A file that was moved or removed is opened
//! again, and so is one that could not be opened or written before. What can't be written goes to the edge's own log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use prometheus::IntCounter;

use super::tell;

/// Lines that may wait: they come by the hand of people.
const MAX_LINES: usize = 1_000;
/// What it holds is for the edge's user alone.
const MODE: u32 = 0o600;

/// Lines on their way to the file. The thread ends when this is dropped and every line is written.
#[derive(Debug)]
pub(super) struct Writer {
    sender: SyncSender<Message>,
    failures: IntCounter,
}

enum Message {
    Line(String),
    Reopen,
    /// To be told when everything before it is done.
    Flush(SyncSender<()>),
}

impl Writer {
    /// Starts the thread, which opens the file.
    pub(super) fn start(path: &Path, failures: IntCounter) -> io::Result<Self> {
        let (sender, messages) = sync_channel(MAX_LINES);
        let log = LogFile { path: path.to_owned(), file: None, failures: failures.clone() };
        thread::Builder::new().name("audit-log".to_owned()).spawn(move || log.run(&messages))?;
        Ok(Self { sender, failures })
    }

    /// Leaves a line. Where too many wait, it goes to the edge's own log.
    pub(super) fn push(&self, line: String) {
        if let Err(refused) = self.sender.try_send(Message::Line(line)) {
            self.failures.inc();
            if let TrySendError::Full(Message::Line(line))
            | TrySendError::Disconnected(Message::Line(line)) = refused
            {
                tracing::error!("audit log is too slow: an entry goes here");
                tell(&line);
            }
        }
    }

    /// Has the file opened again after the lines of before.
    pub(super) fn reopen(&self) {
        // Where the queue is full, the file is compared with its name before each line anyway.
        let _ = self.sender.try_send(Message::Reopen);
    }
    /// Hears once every line of before is written.
    pub(super) fn flushed(&self) -> Receiver<()> {
        let (tell, told) = sync_channel(1);
        // Where it finds no room, the receiver hears that nobody will tell.
        let _ = self.sender.try_send(Message::Flush(tell));
        told
    }
}

struct LogFile {
    path: PathBuf,
    file: Option<File>,
    failures: IntCounter,
}

impl LogFile {
    fn run(mut self, messages: &Receiver<Message>) {
        // What is wrong with the path is said now, and not when it is needed.
        self.open();
        while let Ok(message) = messages.recv() {
            match message {
                Message::Line(line) => self.write(&line),
                Message::Reopen => {
                    self.file = None;
                    self.open();
                }
                Message::Flush(tell) => drop(tell.send(())),
            }
        }
    }

    fn write(&mut self, line: &str) {
        if self.file.as_ref().is_none_or(|file| self.has_moved(file)) {
            self.file = None;
            self.open();
        }
        let file = self.file.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let written = file.and_then(|file| {
            // One write: lines of two processes, as at an upgrade, do not mix.
            file.write_all(format!("{line}\n").as_bytes())?;
            file.flush()
        });
        if let Err(error) = written {
            self.failures.inc();
            tracing::error!(%error, file = %self.path.display(), "audit log can't be written: an entry goes here");
            tell(line);
        }
    }

    fn open(&mut self) {
        let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(&self.path);
        match opened {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                tracing::error!(%error, file = %self.path.display(), "audit log can't be opened");
            }
        }
    }

    /// Whether the open file no longer has its name.
    fn has_moved(&self, file: &File) -> bool {
        let (Ok(open), Ok(named)) = (file.metadata(), self.path.metadata()) else {
            return true;
        };
        (open.dev(), open.ino()) != (named.dev(), named.ino())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn writer(path: &Path) -> (Writer, IntCounter) {
        let failures = IntCounter::new("failures", "failures").unwrap();
        (Writer::start(path, failures.clone()).unwrap(), failures)
    }

    fn write(writer: &Writer, line: &str) {
        writer.push(line.to_owned());
        writer.flushed().recv_timeout(SOON).unwrap();
    }

    #[test]
    fn lines_are_appended_to_a_file_of_the_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        for line in ["one", "two"] {
            let (writer, failures) = writer(&path);
            write(&writer, line);
            assert_eq!(failures.get(), 0);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again_with_and_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let (writer, _) = writer(&path);
        write(&writer, "one");
        fs::rename(&path, &aside).unwrap();
        writer.reopen();
        writer.flushed().recv_timeout(SOON).unwrap();
        assert!(path.exists(), "it is there before the next line");
        fs::remove_file(&path).unwrap();
        write(&writer, "two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_to_string(&aside).unwrap(), "one\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_file_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/audit.log");
        let (writer, failures) = writer(&path);
        write(&writer, "one");
        assert_eq!(failures.get(), 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        write(&writer, "two");
        assert_eq!(failures.get(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
