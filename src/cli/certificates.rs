//! `tidegate certificates`: those that a running edge serves, and those that are kept on disk.

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{
    admin_client::{AdminArgs, AdminClient},
    state_directory::StateArgs,
    status::{ask, parse, print, when},
    table::{Table, printable},
};
use crate::{
    admin::{CertificateStatus, Status},
    state::{Mode, write_atomically},
    tls::acme::{AcmeStore, Algorithm, CertificateId, FileStore, KeptCertificate},
};

/// How long `renew` waits for the new certificate.
const RENEWAL: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  tidegate certificates list
  tidegate certificates show shop
  tidegate certificates renew shop
  tidegate certificates export shop.example.com --chain shop.pem --key shop.key
  tidegate certificates import --chain fullchain.pem --key privkey.pem

list, show, renew and roll-account-key ask the running edge; export and import work on its state directory.";

/// Certificates: list, show, renew, export, import
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CertificatesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// The certificates of all sites: where they come from, when they end, when they are renewed
    List {
        #[command(flatten)]
        admin: AdminArgs,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// The certificate of one site
    Show {
        /// The site
        site: String,
        #[command(flatten)]
        admin: AdminArgs,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Order the certificate of a site now, and wait for it
    Renew {
        /// The site
        site: String,
        #[command(flatten)]
        admin: AdminArgs,
        /// Don't wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a new key for the account with an ACME authority
    RollAccountKey {
        /// The authority's name in the configuration
        authority: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Write a certificate that was ordered, and its key, to files
    Export {
        /// A name that the certificate is for
        name: String,
        /// Where the chain goes (PEM)
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// Where the key goes (PEM, readable by its owner only)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Which of two: `ecdsa` or `rsa`
        #[arg(long, value_name = "KIND", value_parser = algorithm)]
        key_type: Option<Algorithm>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Take a certificate and its key from files, in place of a first order: it is renewed by ACME when its time comes
    Import {
        /// The chain (PEM)
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// The key (PEM)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        state: StateArgs,
    },
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    [Algorithm::Ecdsa, Algorithm::Rsa]
        .into_iter()
        .find(|algorithm| algorithm.word() == text)
        .ok_or_else(|| "write ecdsa or rsa".to_owned())
}

/// Runs the command.
///
/// # Errors
/// The edge can't be reached or refuses, or a file can't be used; becomes exit code 1.
pub fn run(args: CertificatesArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Export { name, chain, key, key_type, state } => {
            export(&FileStore::new(&state.find()?), &name, key_type, &chain, &key)
        }
        Action::Import { chain, key, state } => {
            import(&FileStore::new(&state.find()?), &chain, &key)
        }
        asking => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("no runtime can be started")?;
            runtime.block_on(asked(asking))
        }
    }
}

async fn asked(action: Action) -> anyhow::Result<()> {
    match action {
        Action::List { admin, json } => {
            let status = status(&AdminClient::new(&admin)?).await?;
            if json {
                return print(&format!(
                    "{}\n",
                    serde_json::to_string_pretty(&status.certificates)?
                ));
            }
            print(&list(&status.certificates, Timestamp::now()))
        }
        Action::Show { site, admin, json } => {
            let status = status(&AdminClient::new(&admin)?).await?;
            let certificate = of_site(&status, &site)?;
            if json {
                return print(&format!("{}\n", serde_json::to_string_pretty(certificate)?));
            }
            print(&show(certificate, Timestamp::now()))
        }
        Action::Renew { site, admin, no_wait } => {
            let client = AdminClient::new(&admin)?;
            let before = of_site(&status(&client).await?, &site)?.clone();
            let site_in_query: String = form_urlencoded::byte_serialize(site.as_bytes()).collect();
            let path = format!("/v1/certificates/renew?site={site_in_query}");
            ask(&client, Method::POST, &path).await?;
            if no_wait {
                return print(&format!("the certificate of {site} is ordered\n"));
            }
            renewed(&client, &site, &before).await
        }
        Action::RollAccountKey { authority, admin } => {
            let client = AdminClient::new(&admin)?;
            let in_query: String = form_urlencoded::byte_serialize(authority.as_bytes()).collect();
            let path = format!("/v1/acme/roll-account-key?authority={in_query}");
            ask(&client, Method::POST, &path).await?;
            print(&format!("the account with {authority} has a new key\n"))
        }
        // They ask nobody.
        Action::Export { .. } | Action::Import { .. } => Ok(()),
    }
}

async fn status(client: &AdminClient) -> anyhow::Result<Status> {
    let body = ask(client, Method::GET, "/v1/status").await?;
    parse(client, &body)
}

fn of_site<'a>(status: &'a Status, site: &str) -> anyhow::Result<&'a CertificateStatus> {
    let found = status.certificates.iter().find(|certificate| certificate.site == site);
    found.with_context(|| {
        let known: Vec<&str> =
            status.certificates.iter().map(|certificate| &*certificate.site).collect();
        match known.as_slice() {
            [] => format!("no site \"{site}\" with a certificate; there is none at all"),
            known => {
                format!("no site \"{site}\" with a certificate; there are {}", known.join(", "))
            }
        }
    })
}

/// Waits until the site has another certificate, or the order has failed.
async fn renewed(
    client: &AdminClient,
    site: &str,
    before: &CertificateStatus,
) -> anyhow::Result<()> {
    if std::io::stderr().is_terminal() {
        anstream::eprintln!(
            "waiting for the certificate of {site} (Ctrl-C leaves the order alone)"
        );
    }
    let start = Instant::now();
    while start.elapsed() < RENEWAL {
        tokio::time::sleep(LOOK).await;
        let status = status(client).await?;
        let now = of_site(&status, site)?;
        if now.failures > before.failures {
            bail!(
                "the certificate of {site} was not issued: {}",
                printable(now.error.as_deref().unwrap_or("the log says why"))
            );
        }
        if !now.standing_in
            && (now.issued.clone(), &now.not_after) != (before.issued.clone(), &before.not_after)
        {
            return print(&format!("renewed: {}\n", show(now, Timestamp::now()).trim_end()));
        }
    }
    bail!(
        "the certificate of {site} is not there after {} minutes; `tidegate certificates show {site}` tells more",
        RENEWAL.as_secs() / 60
    )
}

fn state(certificate: &CertificateStatus, now: Timestamp) -> &'static str {
    let ends: Option<Timestamp> = certificate.not_after.parse().ok();
    match ends {
        _ if certificate.standing_in => "stand-in",
        Some(ends) if ends <= now => "expired",
        Some(_) if certificate.error.is_some() => "failing",
        Some(_) => "valid",
        None => "unknown",
    }
}

fn list(certificates: &[CertificateStatus], now: Timestamp) -> String {
    if certificates.is_empty() {
        return "no site has a certificate\n".to_owned();
    }
    let mut table =
        Table::new(&["SITE", "FROM", "STATE", "ENDS", "NEXT ORDER", "NAMES", "LAST ERROR"]);
    for certificate in certificates {
        let next = certificate.next_renewal.as_deref();
        table.row([
            certificate.site.clone(),
            certificate.authority.clone().unwrap_or_else(|| certificate.source.word().to_owned()),
            state(certificate, now).to_owned(),
            when(&certificate.not_after, now),
            next.map_or_else(|| "-".to_owned(), |next| when(next, now)),
            certificate.names.join(" "),
            certificate.error.clone().unwrap_or_default(),
        ]);
    }
    table.render(None)
}

fn show(certificate: &CertificateStatus, now: Timestamp) -> String {
    let with_when = |time: &String| format!("{time} ({})", when(time, now));
    let mut lines = vec![
        ("site", certificate.site.clone()),
        ("names", certificate.names.join(" ")),
        ("state", state(certificate, now).to_owned()),
        ("source", certificate.source.word().to_owned()),
        ("issuer", certificate.issuer.clone()),
        ("ends", with_when(&certificate.not_after)),
    ];
    lines.extend(certificate.authority.clone().map(|authority| ("authority", authority)));
    lines.extend(certificate.issued.as_ref().map(|issued| ("issued", with_when(issued))));
    lines.extend(certificate.next_renewal.as_ref().map(|next| ("next order", with_when(next))));
    if certificate.failures > 0 {
        lines.push(("failed orders", certificate.failures.to_string()));
    }
    lines.extend(certificate.error.clone().map(|error| ("last error", error)));
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("{name:<14}{}\n", printable(value))).collect();
    lines.concat()
}

fn export(
    store: &FileStore,
    name: &str,
    key_type: Option<Algorithm>,
    chain: &Path,
    key: &Path,
) -> anyhow::Result<()> {
    let all = store.certificates()?;
    let fits = |kept: &KeptCertificate| {
        kept.names.iter().any(|known| known == name)
            && key_type.is_none_or(|wanted| wanted == kept.algorithm)
    };
    let found: Vec<&KeptCertificate> =
        all.iter().map(|(_, kept)| kept).filter(|kept| fits(kept)).collect();
    // Of several (a site whose names have changed) the newest.
    let Some(kept) = found.iter().max_by_key(|kept| kept.issued) else {
        bail!(
            "no certificate for {name} is kept in the state directory; `tidegate certificates list` shows where those of the running edge come from"
        );
    };
    write_atomically(key, kept.key.expose().as_bytes(), Mode::Private)?;
    write_atomically(chain, kept.chain.as_bytes(), Mode::Shared)?;
    print(&format!(
        "{} ({}): chain in {}, key in {}\n",
        kept.names.join(" "),
        kept.algorithm.word(),
        chain.display(),
        key.display()
    ))
}

fn import(store: &FileStore, chain: &Path, key: &Path) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let loaded = crate::tls::load_files(chain, key, now)?;
    let names = loaded.names.0.clone();
    ensure!(!names.is_empty(), "the certificate in {} has no names", chain.display());
    let algorithm = match loaded.key.key.algorithm() {
        rustls::SignatureAlgorithm::RSA => Algorithm::Rsa,
        rustls::SignatureAlgorithm::ECDSA => Algorithm::Ecdsa,
        _ => bail!(
            "the key in {} is neither RSA nor ECDSA; ACME authorities certify no others",
            key.display()
        ),
    };
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))
    };
    let mut sorted = names;
    sorted.sort_unstable();
    sorted.dedup();
    let kept = KeptCertificate::imported(
        sorted,
        algorithm,
        read(chain)?,
        Zeroizing::new(read(key)?),
        loaded.not_before,
    );
    let id = CertificateId::new(&kept.names, algorithm);
    let store: Arc<dyn AcmeStore> = Arc::new(store.clone());
    store.keep_certificate(&id, &kept)?;
    print(&format!(
        "{} ({}) is kept; a running edge takes it within a minute for a site with exactly these hosts\n",
        kept.names.join(" "),
        algorithm.word()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::admin::CertificateOrigin;

    fn certificate() -> CertificateStatus {
        CertificateStatus {
            site: "shop".into(),
            names: vec!["shop.example.com".into()],
            issuer: "R3".into(),
            not_after: "2026-12-21T00:00:00Z".into(),
            source: CertificateOrigin::Acme,
            standing_in: false,
            authority: Some("letsencrypt".into()),
            issued: Some("2026-11-20T00:00:00Z".into()),
            next_renewal: Some("2026-12-10T00:00:00Z".into()),
            failures: 0,
            error: None,
        }
    }

    #[test]
    fn certificates_are_listed_and_shown() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let failing =
            CertificateStatus { error: Some("no\x1b[2J".into()), failures: 2, ..certificate() };
        let stand_in = CertificateStatus { standing_in: true, authority: None, ..certificate() };
        let text = list(&[certificate(), failing.clone(), stand_in], now);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..5], ["shop", "letsencrypt", "valid", "in", "30d"]);
        assert_eq!(lines[2][2], "failing");
        assert_eq!(lines[3][1..3], ["acme", "stand-in"]);
        assert!(!text.contains('\x1b'));
        let text = show(&failing, now);
        assert!(text.contains("next order    2026-12-10T00:00:00Z (in 19d 0h)\n"), "{text}");
        assert!(text.contains("failed orders 2\n") && !text.contains('\x1b'), "{text}");
        let nothing = list(&[], now);
        assert_eq!(nothing, "no site has a certificate\n");
    }

    #[test]
    fn what_is_imported_can_be_exported() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let params =
            rcgen::CertificateParams::new(["b.test".to_owned(), "a.test".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(path("chain"), &pem).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        let store = FileStore::new(folder.path());
        import(&store, &path("chain"), &path("key")).unwrap();
        export(&store, "a.test", None, &path("chain2"), &path("key2")).unwrap();
        assert_eq!(fs::read_to_string(path("chain2")).unwrap(), pem);
        assert_eq!(fs::read(path("key2")).unwrap(), fs::read(path("key")).unwrap());
        assert_eq!(fs::metadata(path("key2")).unwrap().permissions().mode() & 0o777, 0o600);
        for (name, kind) in [("c.test", None), ("a.test", Some(Algorithm::Rsa))] {
            let error = export(&store, name, kind, &path("x"), &path("y")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        let other = rcgen::KeyPair::generate().unwrap();
        fs::write(path("key"), other.serialize_pem()).unwrap();
        assert!(import(&store, &path("chain"), &path("key")).is_err(), "a key of another");
    }
}
