//! The queue of lines and the thread that writes them.
//!
//! Lines are written in batches, one write a batch, and gathered for a few milliseconds before: waking the thread for
//! each line costs a request more than formatting it. A file is appended to, and opened again when somebody moved or
//! removed it (log rotation). Lines that fail to be written are lost and counted; the log says so once a minute.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

use crate::telemetry::config::AccessLogOutput;

/// Lines that may wait.
const MAX_LINES: usize = 8_192;
/// Bytes that may wait: many long lines must not fill the memory.
const MAX_BYTES: usize = 16 << 20;
/// A batch is written when it has as many bytes, or when no line waits.
const BATCH_BYTES: usize = 64 << 10;
/// How long the first line of a batch waits for others. The queue takes 1.6 million lines a second meanwhile.
const GATHER: Duration = Duration::from_millis(5);
/// How often a failing write is logged.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
/// How often the file is compared with what has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Lines on their way to the writer.
#[derive(Debug)]
pub(super) struct Queue {
    sender: SyncSender<Vec<u8>>,
    /// Bytes pushed and not yet written.
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl Queue {
    /// Starts the thread. It ends when the queue is dropped and every line is written.
    pub(super) fn start(sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let (sender, lines) = sync_channel(MAX_LINES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            sink,
            waiting: Arc::clone(&waiting),
            dropped: dropped.clone(),
            failed_lines: 0,
            complained: None,
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self { sender, waiting, dropped })
    }

    /// Leaves a line, or drops and counts it where the queue is full.
    pub(super) fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        let fits = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits || self.sender.try_send(line).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// Waits until nothing waits, at most for `deadline`.
    pub(super) fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.waiting.load(Ordering::Acquire) > 0 {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

struct Writer {
    sink: Sink,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
    failed_lines: u64,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        let mut is_behind = false;
        while let Ok(first) = lines.recv() {
            // Nobody is woken while this sleeps. With a full batch behind us there are lines enough.
            if !is_behind {
                thread::sleep(GATHER);
            }
            batch.extend_from_slice(&first);
            let mut count = 1;
            while batch.len() < BATCH_BYTES
                && let Ok(line) = lines.try_recv()
            {
                batch.extend_from_slice(&line);
                count += 1;
            }
            is_behind = batch.len() >= BATCH_BYTES;
            if let Err(error) = self.sink.write(&batch, Instant::now()) {
                self.failed(count, &error, Instant::now());
            }
            self.waiting.fetch_sub(batch.len(), Ordering::Release);
            batch.clear();
        }
    }

    fn failed(&mut self, lines: u64, error: &io::Error, now: Instant) {
        self.dropped.inc_by(lines);
        self.failed_lines += lines;
        let is_due = self
            .complained
            .is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY);
        if is_due {
            tracing::error!(%error, lines = self.failed_lines, "access log can't be written");
            self.complained = Some(now);
            self.failed_lines = 0;
        }
    }
}

/// Where the batches go.
pub(super) enum Sink {
    Stdout,
    File(LogFile),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

impl Sink {
    pub(super) fn open(output: &AccessLogOutput) -> io::Result<Self> {
        Ok(match output {
            AccessLogOutput::Stdout => Self::Stdout,
            AccessLogOutput::File(path) => Self::File(LogFile {
                file: open(path)?,
                path: path.clone(),
                looked: Instant::now(),
            }),
        })
    }

    fn write(&mut self, batch: &[u8], now: Instant) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(batch)?;
                stdout.flush()
            }
            Self::File(log) => log.write(batch, now),
            #[cfg(test)]
            Self::Test(writer) => writer.write_all(batch),
        }
    }
}

pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl LogFile {
    fn write(&mut self, batch: &[u8], now: Instant) -> io::Result<()> {
        if now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            if !self.is_in_place() {
                self.file = open(&self.path)?;
            }
        }
        self.file.write_all(batch)
    }

    /// Whether the open file still has its name.
    fn is_in_place(&self) -> bool {
        let (Ok(open), Ok(named)) = (self.file.metadata(), self.path.metadata()) else {
            return false;
        };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }
}

/// Lines hold addresses of people: others than owner and group may not read them.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::{Mutex, mpsc},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    /// Takes a batch only after a word on the channel.
    struct Gate {
        pass: Receiver<()>,
        written: Written,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.pass.recv();
            self.written.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Written = Arc<Mutex<Vec<Vec<u8>>>>;

    fn gated() -> (Queue, mpsc::Sender<()>, Written, IntCounter) {
        let (open, pass) = mpsc::channel();
        let written = Written::default();
        let gate = Gate { pass, written: Arc::clone(&written) };
        let dropped = counter();
        let queue = Queue::start(Sink::Test(Box::new(gate)), dropped.clone()).unwrap();
        (queue, open, written, dropped)
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (queue, open, written, dropped) = gated();
        let pushed = MAX_LINES + 5_000;
        let line = [b'x'; 64];
        for _ in 0..pushed {
            queue.push(line.to_vec());
        }
        assert!(!queue.flush(Duration::ZERO), "nothing can be written yet");
        // The writer may have taken one batch out of the queue.
        let lost = dropped.get() as usize;
        let batch = BATCH_BYTES / line.len();
        assert!((5_000 - batch..=5_000).contains(&lost), "{lost}");
        drop(open);
        assert!(queue.flush(SOON));
        let written = written.lock().unwrap();
        let lines: usize = written.iter().map(|batch| batch.len() / line.len()).sum();
        assert_eq!(lines + lost, pushed);
        assert!(written.len() < 20, "lines are written in batches");
    }

    #[test]
    fn waiting_bytes_are_bounded_too() {
        let (queue, open, _written, dropped) = gated();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            queue.push(line.clone());
        }
        assert_eq!(dropped.get(), 4);
        drop(open);
        assert!(queue.flush(SOON));
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_fail_to_be_written_are_counted() {
        let dropped = counter();
        let queue = Queue::start(Sink::Test(Box::new(Broken)), dropped.clone()).unwrap();
        queue.push(b"a\n".to_vec());
        queue.push(b"b\n".to_vec());
        assert!(queue.flush(SOON));
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn a_rotated_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut sink = Sink::open(&AccessLogOutput::File(path.clone())).unwrap();
        let now = Instant::now();
        sink.write(b"one\n", now).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        sink.write(b"two\n", now + LOOK_EVERY * 2).unwrap();
        sink.write(b"three\n", now + LOOK_EVERY * 4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
        let rotated = std::fs::read_to_string(directory.path().join("access.log.1")).unwrap();
        assert_eq!(rotated, "one\n");
    }
}
