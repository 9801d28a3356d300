//! Where the passphrase of a backup comes from: a file, the environment, or the terminal. Never an argument, which every
//! user of the machine sees.

use std::{
    env,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use zeroize::Zeroizing;

use crate::state::archive::Passphrase;

/// The environment variable.
const VARIABLE: &str = "TIDEGATE_BACKUP_PASSPHRASE";
/// The largest file that is taken for a passphrase, in bytes.
const MAX_BYTES: u64 = 4_096;

/// Where the passphrase is.
#[derive(Args, Clone, Debug)]
pub struct PassphraseArgs {
    /// File with the passphrase; without it the environment variable `TIDEGATE_BACKUP_PASSPHRASE` is taken, or the terminal asks
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// One to make a backup with; a terminal asks for it twice.
    ///
    /// # Errors
    /// There is none, or it is too short.
    pub fn to_seal(&self) -> anyhow::Result<Passphrase> {
        let text = if let Some(text) = self.given()? {
            text
        } else {
            let text = asked("Passphrase of the backup: ")?;
            // Before it is typed again for nothing.
            Passphrase::to_seal(&text)?;
            if *asked("The same again: ")? != *text {
                bail!("the two are not the same");
            }
            text
        };
        Ok(Passphrase::to_seal(&text)?)
    }

    /// One to open a backup with.
    ///
    /// # Errors
    /// There is none, or it is empty.
    pub fn to_open(&self) -> anyhow::Result<Passphrase> {
        let text = match self.given()? {
            Some(text) => text,
            None => asked("Passphrase of the backup: ")?,
        };
        Ok(Passphrase::to_open(&text)?)
    }

    /// What a file or the environment has.
    fn given(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        if let Some(file) = &self.passphrase_file {
            let text = read(file)
                .with_context(|| format!("no passphrase can be read from {}", file.display()))?;
            return Ok(Some(text));
        }
        match env::var(VARIABLE) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(env::VarError::NotPresent) => Ok(None),
            // Its error has the value.
            Err(env::VarError::NotUnicode(_)) => Err(anyhow!("{VARIABLE} is not UTF-8")),
        }
    }
}

/// The first and only line of a file.
fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    // In one piece: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize + 1));
    File::open(file)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        bail!("it is longer than {MAX_BYTES} bytes");
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains('\n') {
        bail!("it has more than one line");
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn asked(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    rpassword::prompt_password(prompt).map(Zeroizing::new).with_context(|| {
        format!("there is no terminal to ask for the passphrase; give it by --passphrase-file or {VARIABLE}")
    })
}
