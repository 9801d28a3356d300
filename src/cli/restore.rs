//! `tidegate restore`: a state directory from a backup, whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Args;

use super::{
    backup::{STANDARD, bytes, size},
    passphrase::PassphraseArgs,
    progress::Progress,
    state_directory::StateArgs,
    table::{Table, printable},
};
use crate::{
    server,
    state::archive::{self, Contents, Limits, Staging},
    telemetry::rfc3339,
};

const EXAMPLES: &str = "\
Examples:
  tidegate restore /var/backups/edge.age                        asks for its passphrase
  tidegate restore --list /var/backups/edge.age                 shows what is in it, and changes nothing
  tidegate restore --state-dir /srv/tidegate/state edge.age
  ssh store cat edge.age | tidegate restore --force -           from standard input, over a state that is there

Nothing is changed before all of the backup is found to be right. No edge may run with that state directory.

Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong.";

/// Put the state directory back from a backup
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RestoreArgs {
    /// The backup, or `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the state goes.
    #[command(flatten)]
    pub state: StateArgs,
    /// Where the passphrase is.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Move what is in the state directory aside, to DIR.before-restore-TIME
    #[arg(long, conflicts_with = "list")]
    pub force: bool,
    /// Show what is in the backup, and change nothing
    #[arg(long)]
    pub list: bool,
    /// With --list: as JSON
    #[arg(long, requires = "list")]
    pub json: bool,
}

/// Restores, or lists.
///
/// # Errors
/// The backup is not right, an edge runs, the directory can't be replaced; becomes exit code 1, and nothing is changed.
pub fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    if args.list {
        return list(args);
    }
    let state_dir = args.state.find()?;
    refuse_while_running(&state_dir)?;
    let mut staging = Staging::beside(&state_dir, args.force)?;
    let input = open(&args.file)?;
    let passphrase = args.passphrase.to_open()?;
    let mut progress = Progress::new("restoring");
    let mut files = 0;
    let contents = archive::unpack(input, &passphrase, Limits::default(), &mut |path, content| {
        files += 1;
        progress.at(files);
        staging.write(path, content)
    })?;
    drop(progress);
    let target = staging.target().to_owned();
    let owner = fs::metadata(&target).ok().map(|there| there.uid());
    // One may have been started meanwhile.
    refuse_while_running(&state_dir)?;
    let when = stamp();
    let aside = staging.put(args.force.then_some(when.as_str()))?;
    super::say(&printable(&format!(
        "{} restored to {}, as they were at {}",
        size(&contents),
        target.display(),
        contents.made_at,
    )))?;
    if let Some(aside) = aside {
        super::say(&printable(&format!(
            "what was there is in {}; delete it when all is well",
            aside.display()
        )))?;
    }
    if let Some(owner) = owner
        && let Ok(new) = fs::metadata(&target)
        && new.uid() != owner
    {
        super::note(&format!(
            "the files belong to user {} now, and before it was user {owner}: `chown -R {owner} {}`",
            new.uid(),
            target.display()
        ));
    }
    Ok(())
}

fn refuse_while_running(state_dir: &Path) -> anyhow::Result<()> {
    let is_running = server::is_running(state_dir).with_context(|| {
        format!("whether an edge runs with {} can't be told", state_dir.display())
    })?;
    if is_running {
        bail!("an edge runs with {}; stop it first", state_dir.display());
    }
    Ok(())
}

fn open(file: &Path) -> anyhow::Result<Box<dyn Read>> {
    if file.as_os_str() == STANDARD {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
    Ok(Box::new(opened))
}

/// A point in time as a part of a file's name, to the second: `2026-11-21T07-42-16Z`.
fn stamp() -> String {
    let now = rfc3339(SystemTime::now()).replace(':', "-");
    now.split_once('.').map_or(now.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn list(args: &RestoreArgs) -> anyhow::Result<()> {
    let input = open(&args.file)?;
    let passphrase = args.passphrase.to_open()?;
    let contents = archive::unpack(input, &passphrase, Limits::default(), &mut |_, _| Ok(()))?;
    let text = if args.json { json(&contents)? } else { text(&contents) };
    super::say(&text)
}

fn json(contents: &Contents) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(contents)?)
}

fn text(contents: &Contents) -> String {
    let mut table = Table::new(&["FILE", "SIZE"]);
    for file in &contents.files {
        table.row([file.path.clone(), bytes(file.bytes)]);
    }
    let made =
        printable(&format!("made by tidegate {} at {}", contents.tidegate, contents.made_at));
    format!("{}\n{}, {made}", table.render(None), size(contents))
}
