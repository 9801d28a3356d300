//! `tidegate backup`: the state directory in one encrypted file.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Args;
use tempfile::NamedTempFile;

use super::{
    passphrase::PassphraseArgs, progress::Progress, state_directory::StateArgs, table::printable,
};
use crate::{
    state::archive::{self, Contents, Limits, Passphrase, WorkFactor},
    telemetry::rfc3339,
};

/// Standard output or input.
pub(super) const STANDARD: &str = "-";
const MODE: u32 = 0o600;

const EXAMPLES: &str = "\
Examples:
  tidegate backup /var/backups/edge.age            asks for a passphrase
  tidegate backup --passphrase-file /etc/tidegate/backup.passphrase --force /var/backups/edge.age
  tidegate backup - | ssh store 'cat > edge.age'   to standard output

An edge that runs need not stop. The file is a tar in age (https://age-encryption.org): `age -d edge.age | tar t` reads it too.

Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong.";

/// Put the state directory (certificates, accounts, the internal authority, the last good configuration) into one encrypted file
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    /// The file to write, or `-` for standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
    /// Where the passphrase is.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Replace FILE where it exists
    #[arg(long)]
    pub force: bool,
}

/// Makes the backup and says what is in it.
///
/// # Errors
/// The state can't be read, the file can't be written or exists, there is no passphrase; becomes exit code 1.
pub fn run(args: &BackupArgs) -> anyhow::Result<()> {
    let state_dir = args.state.find()?;
    let is_standard = args.file.as_os_str() == STANDARD;
    if is_standard {
        if io::stdout().is_terminal() {
            bail!("a backup is no text for a terminal; send it to a file or a program");
        }
    } else {
        check_place(&args.file, &state_dir, args.force)?;
    }
    let passphrase = args.passphrase.to_seal()?;
    let mut progress = Progress::new("reading");
    let gathered = archive::gather(&state_dir, Limits::default(), &mut |files| progress.at(files))?;
    drop(progress);
    for (path, reason) in &gathered.left_out {
        super::note(&format!("left out: {}: {reason}", path.display()));
    }
    if is_standard {
        let output = io::stdout().lock();
        let contents = seal(&gathered, &passphrase, output)?;
        super::note(&done(&contents, &state_dir, "standard output"));
    } else {
        let contents = write(&args.file, args.force, &gathered, &passphrase)?;
        super::say(&done(&contents, &state_dir, &args.file.display().to_string()))?;
    }
    Ok(())
}

/// Before a passphrase is asked for: whether a backup may stand there.
fn check_place(file: &Path, state_dir: &Path, force: bool) -> anyhow::Result<()> {
    match fs::symlink_metadata(file) {
        Ok(there) if !there.is_file() => {
            bail!(
                "{} is no regular file, and is not replaced; `-` is standard output",
                file.display()
            )
        }
        Ok(_) if !force => bail!("{} exists; --force replaces it", file.display()),
        _ => {}
    }
    let folder = folder_of(file);
    let folder = fs::canonicalize(folder)
        .with_context(|| format!("{} can't be written to", folder.display()))?;
    if fs::canonicalize(state_dir).is_ok_and(|state_dir| folder.starts_with(state_dir)) {
        bail!("{} is in the state directory: the next backup would hold this one", file.display());
    }
    Ok(())
}

/// Writes the file beside its place, flushes it and renames it: it is whole or not there.
fn write(
    path: &Path,
    force: bool,
    gathered: &archive::Gathered,
    passphrase: &Passphrase,
) -> anyhow::Result<Contents> {
    let cant = || format!("{} can't be written", path.display());
    let folder = folder_of(path);
    let file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder)
        .with_context(cant)?;
    let contents = seal(gathered, passphrase, file.as_file())?;
    file.as_file().sync_all().with_context(cant)?;
    persist(file, path, force)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(cant)?;
    Ok(contents)
}

/// It may have come into being meanwhile.
fn persist(file: NamedTempFile, path: &Path, force: bool) -> anyhow::Result<()> {
    let persisted = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} exists; --force replaces it", path.display())
        }
        Err(failed) => {
            Err(failed.error).with_context(|| format!("{} can't be written", path.display()))
        }
    }
}

fn seal(
    gathered: &archive::Gathered,
    passphrase: &Passphrase,
    output: impl Write,
) -> anyhow::Result<Contents> {
    let made_at = rfc3339(SystemTime::now());
    let mut progress = Progress::new("writing");
    let (mut output, contents) = archive::seal(
        gathered,
        made_at,
        passphrase,
        work_factor(),
        BufWriter::new(output),
        &mut |files| progress.at(files),
    )?;
    output.flush().context("the backup can't be written")?;
    Ok(contents)
}

/// The usual one. Tests, which run a debug build, may ask for a cheap one; a release build has no such door.
fn work_factor() -> WorkFactor {
    let is_test =
        cfg!(debug_assertions) && std::env::var_os("TIDEGATE_TEST_CHEAP_SCRYPT").is_some();
    if is_test { WorkFactor::CHEAP } else { WorkFactor::default() }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn done(contents: &Contents, state_dir: &Path, place: &str) -> String {
    let text = format!(
        "{} of {} backed up to {place}; without its passphrase nobody can restore it",
        size(contents),
        state_dir.display()
    );
    printable(&text)
}

/// `3 files (4.2 KiB)`.
pub(super) fn size(contents: &Contents) -> String {
    let files = contents.files.len();
    format!("{files} file{} ({})", if files == 1 { "" } else { "s" }, bytes(contents.bytes()))
}

/// A number of bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
