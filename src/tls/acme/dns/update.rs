//! A record added or removed by dynamic update (RFC 2136), signed with TSIG (RFC 8945). The answer's signature is checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose};
use hickory_proto::{
    op::{Message, ResponseCode, update_message},
    rr::{
        Name, RData, Record, RecordSet, TSigner,
        rdata::{TXT, tsig::TsigError},
    },
};
use zeroize::Zeroizing;

use super::{
    config::DnsUpdate,
    error::{Action, DnsError, SignatureProblem, plain},
    exchange::{Connection, ExchangeError},
    names::{Names, zone_at},
};
use crate::state::read_secret;

/// How far apart the clocks may be, in seconds (RFC 8945, section 10, recommends it).
const FUDGE_SECONDS: u16 = 300;
/// The longest secret in base64, in bytes; keys have 24 to 88.
const MAX_SECRET: usize = 1024;

/// What is done with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Where a record was written.
pub(super) struct Written {
    /// The record's name, after CNAMEs.
    pub(super) name: Name,
    /// Its zone.
    pub(super) zone: Name,
    /// To the zone's primary, for more questions.
    pub(super) primary: Connection,
}

/// Adds or removes one TXT record, and leaves others of its name alone. Doing it twice does no harm.
pub(super) async fn apply(
    update: &DnsUpdate,
    timeout: Duration,
    names: &Names,
    (name, value): (&Name, &str),
    change: Change,
) -> Result<Written, DnsError> {
    let server = update.server;
    let signer = signer(update)?;
    let mut primary = Connection::open(server, timeout).await.map_err(|source| {
        DnsError::Exchange { server, action: Box::new(Action::Connect), source: Box::new(source) }
    })?;
    let name = names.follow(Some(&mut primary), name).await?;
    let zone = match &update.zone {
        Some(zone) => zone.clone(),
        None => zone_at(&mut primary, &name).await?,
    };
    if !zone.zone_of(&name) {
        return Err(DnsError::OutsideZone { name: plain(&name), zone: plain(&zone) });
    }
    let message = message(&name, &zone, value, update.ttl_seconds, change);
    let action = match change {
        Change::Add => Action::Add(plain(&name), plain(&zone)),
        Change::Remove => Action::Remove(plain(&name), plain(&zone)),
    };
    send(&mut primary, update, &signer, message, Box::new(action)).await?;
    Ok(Written { name, zone, primary })
}

/// The zone must contain the name.
fn message(name: &Name, zone: &Name, value: &str, ttl_seconds: u32, change: Change) -> Message {
    let data = RData::TXT(TXT::new(vec![value.to_owned()]));
    let records = RecordSet::from(Record::from_rdata(name.clone(), ttl_seconds, data));
    match change {
        Change::Add => update_message::append(records, zone.clone(), false, false),
        Change::Remove => update_message::delete_by_rdata(records, zone.clone(), false),
    }
}

async fn send(
    primary: &mut Connection,
    update: &DnsUpdate,
    signer: &TSigner,
    mut message: Message,
    action: Box<Action>,
) -> Result<(), DnsError> {
    let server = update.server;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let verifier = message.finalize(signer, now)?;
    let exchanged = primary.exchange(message.metadata.id, message.to_vec()?).await;
    let (answer, bytes) = match exchanged {
        Ok(answer) => answer,
        Err(error) => {
            let source = Box::new(error);
            return Err(DnsError::Exchange { server, action, source });
        }
    };
    // Errors are believed without a signature: a server that does not know the key has none to sign with.
    if let Some(problem) = signature_problem(update, &answer, now) {
        return Err(DnsError::Signature { server, action, problem });
    }
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError {
        return Err(DnsError::Rejected { server, action, code });
    }
    if answer.metadata.op_code != message.metadata.op_code {
        return Err(DnsError::Exchange {
            server,
            action,
            source: Box::new(ExchangeError::Foreign),
        });
    }
    let not_signed = |source| {
        let key_name = plain(&update.key_name);
        DnsError::NotSigned { server, action, key_name, source }
    };
    match verifier {
        Some(mut verifier) if answer.signature().is_some() => match verifier.verify(&bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(not_signed(Some(error))),
        },
        _ => Err(not_signed(None)),
    }
}

/// The error in the answer's TSIG record (RFC 8945, section 5.3.2).
fn signature_problem(update: &DnsUpdate, answer: &Message, ours: u64) -> Option<SignatureProblem> {
    let signature = &answer.signature()?.data;
    Some(match signature.error? {
        TsigError::BadKey => SignatureProblem::Key(plain(&update.key_name), update.hash),
        TsigError::BadSig => SignatureProblem::Secret(plain(&update.key_name)),
        TsigError::BadTime => {
            // The server's clock, in 48 bits (RFC 8945, section 4.2).
            let theirs = (signature.other.len() == 6)
                .then(|| signature.other.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)));
            SignatureProblem::Clock { ours, theirs }
        }
        other => SignatureProblem::Other(other.into()),
    })
}

/// Reads the secret, again for each update, so that a changed file counts at once.
fn signer(update: &DnsUpdate) -> Result<TSigner, DnsError> {
    let text = read_secret(&update.secret).map_err(DnsError::Secret)?;
    let no_key = || DnsError::SecretNotBase64(update.secret.clone());
    let text = text.expose().trim_ascii();
    if text.len() > MAX_SECRET {
        return Err(no_key());
    }
    let mut key = Zeroizing::new(vec![0; MAX_SECRET]);
    let length = general_purpose::STANDARD.decode_slice(text, &mut key).map_err(|_| no_key())?;
    let key = key.get(..length).filter(|key| !key.is_empty()).ok_or_else(no_key)?;
    let algorithm = update.hash.algorithm();
    Ok(TSigner::new(key.to_vec(), algorithm, update.key_name.clone(), FUDGE_SECONDS)?)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::TSIG;

    use super::*;
    use crate::{state::SecretError, tls::acme::dns::config::TsigHash, types::SecretSource};

    fn update(secret: SecretSource) -> DnsUpdate {
        DnsUpdate {
            server: "127.0.0.1:53".parse().unwrap(),
            zone: None,
            key_name: Name::from_ascii("edge.").unwrap(),
            hash: TsigHash::Sha256,
            secret,
            ttl_seconds: 60,
        }
    }

    #[test]
    fn a_secret_is_base64_in_a_file_or_a_variable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let update = update(SecretSource::File(path.clone()));
        let said = |update: &DnsUpdate| match signer(update) {
            Ok(signer) => Ok(signer.key().to_vec()),
            Err(error) => Err(error.to_string()),
        };
        assert!(matches!(signer(&update), Err(DnsError::Secret(SecretError::Read { .. }))));
        std::fs::write(&path, "aHVudGVyMg==\n").unwrap();
        assert_eq!(said(&update), Ok(b"hunter2".to_vec()));
        let long = "A".repeat(4 * MAX_SECRET);
        for empty in ["", "\n"] {
            std::fs::write(&path, empty).unwrap();
            assert!(matches!(signer(&update), Err(DnsError::Secret(SecretError::Empty(_)))));
        }
        for wrong in [" ", "hunter2", "secret: aHVudGVyMg==", &long] {
            std::fs::write(&path, wrong).unwrap();
            let error = said(&update).unwrap_err();
            assert!(error.contains("is not base64") && !error.contains("aHVu"), "{error}");
        }
        let update = super::tests::update(SecretSource::Env("TIDEGATE_TEST_NO_SECRET".into()));
        assert!(matches!(signer(&update), Err(DnsError::Secret(SecretError::NotSet(_)))));
    }

    #[test]
    fn errors_of_a_signature_are_told_apart() {
        let update = update(SecretSource::Env("X".into()));
        let problem = |error: TsigError, other: &[u8]| {
            let data = TSIG::new(
                update.hash.algorithm(),
                0,
                FUDGE_SECONDS,
                Vec::new(),
                0,
                Some(error),
                other.to_vec(),
            );
            let mut message = Message::query();
            let record = Record::from_rdata(update.key_name.clone(), 0, data);
            message.set_signature(Box::new(record));
            signature_problem(&update, &message, 1_600_000_000).unwrap().to_string()
        };
        assert!(problem(TsigError::BadKey, &[]).contains("no key edge with hmac-sha256"));
        assert!(problem(TsigError::BadSig, &[]).contains("another secret"));
        let clock = problem(TsigError::BadTime, &[0, 0, 0x65, 0x53, 0xf1, 0x00]);
        assert!(clock.contains("here it is 2020-09-13T12:26:40Z, there 2023-11-14T"), "{clock}");
        assert!(problem(TsigError::BadTime, &[1]).contains("here it is 2020-09-13T12:26:40Z; set"));
        assert!(problem(TsigError::Unknown(99), &[]).contains("TSIG error 99"));
        assert_eq!(signature_problem(&update, &Message::query(), 0), None);
    }
}
