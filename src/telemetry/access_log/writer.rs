//! The queue of lines and the thread that writes them.
//!
//! Lines are written in batches, one write a batch, and gathered for a few milliseconds before: waking the thread for
//! each line costs a request more than formatting it. A file is appended to, and opened again when somebody asks for it
//! (SIGUSR1) or has moved or removed it; where it can't be opened, the old one is written on. Lines that fail to be
//! written are lost and counted; the log says so once a minute. A line that was written in part is ended before the
//! next one, so that one loss stays one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    sender: SyncSender<Message>,
    /// Bytes pushed and not yet written.
    waiting: Arc<AtomicUsize>,
    /// The file is to be opened again.
    is_moved: Arc<AtomicBool>,
    output: AccessLogOutput,
    dropped: IntCounter,
}

enum Message {
    /// To be written.
    Line(Vec<u8>),
    /// Something else is to be done; a writer that is busy sees it without this.
    Wake,
}

impl Queue {
    /// Opens the output and starts the thread. It ends when the queue is dropped and every line is written.
    pub(super) fn start(output: &AccessLogOutput, dropped: IntCounter) -> io::Result<Self> {
        Self::with_sink(output, Sink::open(output)?, dropped)
    }

    fn with_sink(output: &AccessLogOutput, sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let (sender, messages) = sync_channel(MAX_LINES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let is_moved = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            sink,
            waiting: Arc::clone(&waiting),
            is_moved: Arc::clone(&is_moved),
            dropped: dropped.clone(),
            is_torn: false,
            failed_lines: 0,
            complained: None,
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&messages))?;
        Ok(Self { sender, waiting, is_moved, output: output.clone(), dropped })
    }

    /// Where the lines go.
    pub(super) fn output(&self) -> &AccessLogOutput {
        &self.output
    }

    /// Leaves a line, or drops and counts it where the queue is full.
    pub(super) fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        let fits = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits || self.sender.try_send(Message::Line(line)).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// Has the file opened again before the next write.
    pub(super) fn reopen(&self) {
        self.is_moved.store(true, Ordering::Release);
        // A full queue has a writer that is awake.
        let _ = self.sender.try_send(Message::Wake);
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
    is_moved: Arc<AtomicBool>,
    dropped: IntCounter,
    /// The last line was written in part.
    is_torn: bool,
    failed_lines: u64,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        let mut is_behind = false;
        while let Ok(first) = messages.recv() {
            if let Message::Line(line) = first {
                // Nobody is woken while this sleeps. With a full batch behind us there are lines enough.
                if !is_behind {
                    thread::sleep(GATHER);
                }
                batch.extend_from_slice(&line);
                while batch.len() < BATCH_BYTES
                    && let Ok(message) = messages.try_recv()
                {
                    if let Message::Line(line) = message {
                        batch.extend_from_slice(&line);
                    }
                }
                is_behind = batch.len() >= BATCH_BYTES;
            }
            let now = Instant::now();
            if self.is_moved.swap(false, Ordering::Acquire) {
                self.reopen(now);
            }
            if !batch.is_empty() {
                self.write(&batch, now);
                self.waiting.fetch_sub(batch.len(), Ordering::Release);
                batch.clear();
            }
        }
    }

    fn write(&mut self, batch: &[u8], now: Instant) {
        if let Sink::File(file) = &mut self.sink
            && file.has_moved(now)
        {
            self.reopen(now);
        }
        if self.is_torn && write_counted(&mut self.sink, b"\n").is_ok() {
            self.is_torn = false;
        }
        if let Err((written, error)) = write_counted(&mut self.sink, batch) {
            let (whole, lost) = batch.split_at_checked(written).unwrap_or((batch, &[]));
            self.is_torn |= whole.last().is_some_and(|last| *last != b'\n');
            let lines = lost.split_inclusive(|byte| *byte == b'\n').count() as u64;
            self.dropped.inc_by(lines);
            self.failed_lines += lines;
            if self.is_due(now) {
                tracing::error!(%error, lines = self.failed_lines, "access log can't be written");
                self.failed_lines = 0;
            }
        }
    }

    fn reopen(&mut self, now: Instant) {
        let Sink::File(file) = &mut self.sink else { return };
        match open(&file.path) {
            Ok(opened) => {
                file.file = opened;
                self.is_torn = false;
                tracing::info!(file = %file.path.display(), "access log opened again");
            }
            Err(error) => {
                let file = file.path.display().to_string();
                if self.is_due(now) {
                    tracing::error!(
                        %error,
                        file,
                        "access log can't be opened again: the old file is written on"
                    );
                }
            }
        }
    }

    /// Whether a complaint may be made, which then is made.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .complained
            .is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY);
        if is_due {
            self.complained = Some(now);
        }
        is_due
    }
}

/// Writes all bytes, or says how many of them were written before it failed.
fn write_counted(sink: &mut Sink, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let error = match sink.write(rest) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err((bytes.len() - rest.len(), error));
    }
    Ok(())
}

/// Where the batches go.
enum Sink {
    Stdout,
    File(LogFile),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

impl Sink {
    fn open(output: &AccessLogOutput) -> io::Result<Self> {
        Ok(match output {
            AccessLogOutput::Stdout => Self::Stdout,
            AccessLogOutput::File(path) => Self::File(LogFile {
                file: open(path)?,
                path: path.clone(),
                looked: Instant::now(),
            }),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write(bytes)?;
                stdout.flush()?;
                Ok(written)
            }
            Self::File(log) => log.file.write(bytes),
            #[cfg(test)]
            Self::Test(writer) => writer.write(bytes),
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
}

impl LogFile {
    /// Whether the open file no longer has its name; looked up once a second.
    fn has_moved(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return false;
        }
        self.looked = now;
        let (Ok(open), Ok(named)) = (self.file.metadata(), self.path.metadata()) else {
            return true;
        };
        (open.dev(), open.ino()) != (named.dev(), named.ino())
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

    fn queue(writer: Box<dyn Write + Send>, dropped: &IntCounter) -> Queue {
        Queue::with_sink(&AccessLogOutput::Stdout, Sink::Test(writer), dropped.clone()).unwrap()
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
        let queue = queue(Box::new(gate), &dropped);
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
        let queue = queue(Box::new(Broken), &dropped);
        queue.push(b"a\n".to_vec());
        queue.push(b"b\n".to_vec());
        assert!(queue.flush(SOON));
        assert_eq!(dropped.get(), 2);
    }

    /// Takes some bytes, then has no room, then has room again.
    struct Filling {
        room: usize,
        written: Written,
    }

    impl Write for Filling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.written.lock().unwrap().push(bytes[..taken].to_vec());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_written_in_part_does_not_spoil_the_next() {
        let (written, dropped) = (Written::default(), counter());
        let filling = Filling { room: 6, written: Arc::clone(&written) };
        let queue = queue(Box::new(filling), &dropped);
        queue.push(b"one\ntwo\nthree\n".to_vec());
        assert!(queue.flush(SOON));
        assert_eq!(dropped.get(), 2, "what was written whole is not lost");
        queue.push(b"four\n".to_vec());
        assert!(queue.flush(SOON));
        let written = written.lock().unwrap().concat();
        assert_eq!(String::from_utf8(written).unwrap(), "one\ntw\nfour\n");
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_file_is_opened_again_when_somebody_asks_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let dropped = counter();
        let queue = Queue::start(&AccessLogOutput::File(path.clone()), dropped.clone()).unwrap();
        let mut expected = String::new();
        for turn in 0..20 {
            for line in 0..50 {
                let line = format!("{turn} {line}\n");
                expected += &line;
                queue.push(line.into_bytes());
            }
            // The writer is at rest, or has lines before it.
            assert!(turn % 2 == 0 || queue.flush(SOON));
            std::fs::rename(&path, directory.path().join(turn.to_string())).unwrap();
            queue.reopen();
            let end = Instant::now() + SOON;
            // Also where no line comes after it.
            while !path.exists() {
                assert!(Instant::now() < end, "the file is not there again");
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(queue.flush(SOON));
        let all = (0..20).map(|turn| text(&directory.path().join(turn.to_string())));
        assert_eq!(all.collect::<String>() + &text(&path), expected);
        assert_eq!(dropped.get(), 0);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn where_the_file_cannot_be_opened_again_the_old_one_is_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, moved) = (directory.path().join("logs"), directory.path().join("moved"));
        std::fs::create_dir(&inside).unwrap();
        let path = inside.join("access.log");
        let dropped = counter();
        let queue = Queue::start(&AccessLogOutput::File(path.clone()), dropped.clone()).unwrap();
        queue.push(b"one\n".to_vec());
        assert!(queue.flush(SOON));
        std::fs::rename(&inside, &moved).unwrap();
        queue.reopen();
        queue.push(b"two\n".to_vec());
        assert!(queue.flush(SOON));
        assert_eq!(text(&moved.join("access.log")), "one\ntwo\n");
        std::fs::create_dir(&inside).unwrap();
        queue.reopen();
        queue.push(b"three\n".to_vec());
        assert!(queue.flush(SOON));
        assert_eq!(text(&path), "three\n");
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_file_that_somebody_moved_is_noticed_without_a_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file =
            LogFile { file: open(&path).unwrap(), path: path.clone(), looked: Instant::now() };
        let now = Instant::now();
        assert!(!file.has_moved(now + LOOK_EVERY * 2));
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        assert!(!file.has_moved(now + LOOK_EVERY * 2), "not asked again within a second");
        assert!(file.has_moved(now + LOOK_EVERY * 4));
        drop(open(&path).unwrap());
        assert!(file.has_moved(now + LOOK_EVERY * 6), "another file has its name");
        file.file = open(&path).unwrap();
        assert!(!file.has_moved(now + LOOK_EVERY * 8));
    }
}
