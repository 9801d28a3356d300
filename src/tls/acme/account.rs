//! Accounts with authorities: made once, kept, found again.
//!
//! The key is kept before the authority hears of it, and an authority that knows a key answers with the account that it
//! has (RFC 8555, section 7.3.1): a crash at any point makes no second account. With an external account binding the
//! library makes the key itself, so there a crash between the authority's answer and the disk leaves an account unused.

use std::sync::Arc;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use instant_acme::{Account, ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};

use super::{
    client::AuthorityClient,
    config::{Authority, Eab},
    failure::Failure,
    kept::{KeptAccount, SecretText},
    shelf::Shelf,
};
use crate::{state::read_secret, types::Secret};

/// The account with an authority, opened or made.
pub(super) async fn open(
    authority: &Arc<Authority>,
    client: AuthorityClient,
    email: Option<&str>,
    shelf: &Shelf,
) -> Result<Account, Failure> {
    let of = Arc::clone(authority);
    let kept = shelf.run(move |store| store.account(&of)).await?;
    let kept = match (kept, &authority.eab) {
        // One that the authority does not have yet, without the binding that it wants by now.
        (Some(KeptAccount { url: None, .. }) | None, Some(eab)) => {
            return bind(authority, eab, client, email, shelf).await;
        }
        (Some(kept), _) => kept,
        (None, None) => {
            let (_, key) = Key::generate_pkcs8().map_err(Failure::acme)?;
            let key = SecretText::new(BASE64_STANDARD.encode(key.secret_pkcs8_der()));
            let directory = authority.directory.clone();
            let kept = KeptAccount { directory, key, url: None, email: None };
            keep(authority, &kept, shelf).await?;
            kept
        }
    };
    let key = || BASE64_STANDARD.decode(kept.key.expose()).map_err(|_| Failure::BadAccountKey);
    let url = authority.directory.clone();
    let builder = Account::builder_with_http(Box::new(client));
    let Some(id) = kept.url.clone() else {
        let der = PrivatePkcs8KeyDer::from(key()?);
        let signer = Key::from_pkcs8_der(der.clone_key()).map_err(|_| Failure::BadAccountKey)?;
        let (account, _) = builder
            .create_from_key((signer, PrivateKeyDer::Pkcs8(der)), url)
            .await
            .map_err(Failure::acme)?;
        info!(authority = %authority.name, account = account.id(), "account opened");
        let kept = KeptAccount { url: Some(account.id().to_owned()), ..kept };
        keep(authority, &kept, shelf).await?;
        return told(account, kept, authority, email, shelf).await;
    };
    let account = builder
        .from_parts(id, PrivatePkcs8KeyDer::from(key()?), url)
        .await
        .map_err(Failure::acme)?;
    told(account, kept, authority, email, shelf).await
}

/// Tells the authority the contact where it was told another.
async fn told(
    account: Account,
    kept: KeptAccount,
    authority: &Arc<Authority>,
    email: Option<&str>,
    shelf: &Shelf,
) -> Result<Account, Failure> {
    if kept.email.as_deref() == email {
        return Ok(account);
    }
    let contact = email.map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
    match account.update_contacts(&contacts).await {
        Ok(()) => {
            let kept = KeptAccount { email: email.map(str::to_owned), ..kept };
            keep(authority, &kept, shelf).await?;
        }
        // It is a courtesy; certificates come without it.
        Err(error) => {
            warn!(authority = %authority.name, %error, "the authority did not take the contact");
        }
    }
    Ok(account)
}

async fn keep(
    authority: &Arc<Authority>,
    kept: &KeptAccount,
    shelf: &Shelf,
) -> Result<(), Failure> {
    let (authority, kept) = (Arc::clone(authority), kept.clone());
    shelf.run(move |store| store.keep_account(&authority, &kept)).await
}

/// A new account that is bound to one outside of ACME (RFC 8555, section 7.3.4).
async fn bind(
    authority: &Arc<Authority>,
    eab: &Eab,
    client: AuthorityClient,
    email: Option<&str>,
    shelf: &Shelf,
) -> Result<Account, Failure> {
    let secret = read_secret(&eab.hmac_key)?;
    let mac = hmac_key(&secret)
        .ok_or_else(|| Failure::Eab(format!("the {} is not base64url", eab.hmac_key)))?;
    let external = ExternalAccountKey::new(eab.key_id.clone(), mac.expose());
    let contact = email.map(|email| format!("mailto:{email}"));
    let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount {
        contact: &contacts,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = Account::builder_with_http(Box::new(client))
        .create(&new, authority.directory.clone(), Some(&external))
        .await
        .map_err(Failure::acme)?;
    info!(authority = %authority.name, account = account.id(), "account opened");
    let kept = KeptAccount {
        directory: authority.directory.clone(),
        key: SecretText::new(BASE64_STANDARD.encode(credentials.private_key().secret_pkcs8_der())),
        url: Some(account.id().to_owned()),
        email: email.map(str::to_owned),
    };
    keep(authority, &kept, shelf).await?;
    Ok(account)
}

/// Takes a new key for the account (RFC 8555, section 7.3.5) and keeps it.
pub(super) async fn roll_key(
    authority: &Arc<Authority>,
    account: &mut Account,
    shelf: &Shelf,
) -> Result<(), Failure> {
    let of = Arc::clone(authority);
    let before = shelf.run(move |store| store.account(&of)).await?;
    // From the authority's yes on, the new key is nowhere but here: the disk must take it.
    if let Some(before) = &before {
        keep(authority, before, shelf).await?;
    }
    let credentials = account.update_key().await.map_err(Failure::acme)?;
    let key = SecretText::new(BASE64_STANDARD.encode(credentials.private_key().secret_pkcs8_der()));
    let kept = KeptAccount {
        directory: authority.directory.clone(),
        key,
        url: Some(account.id().to_owned()),
        email: before.and_then(|before| before.email),
    };
    keep(authority, &kept, shelf).await?;
    info!(authority = %authority.name, account = account.id(), "account has a new key");
    Ok(())
}

/// Authorities show the key as base64url, some with padding, some as plain base64.
fn hmac_key(secret: &Secret) -> Option<Secret> {
    let text = std::str::from_utf8(secret.expose()).ok()?.trim().trim_end_matches('=');
    let url: String = text
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            c => c,
        })
        .collect();
    BASE64_URL_SAFE_NO_PAD.decode(url).ok().map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_binding_is_read_in_all_the_ways_it_is_shown() {
        for text in ["-_8B", "+/8B", "-_8B\n", "_w", "_w==", "/w=="] {
            assert!(hmac_key(&Secret::new(text.into())).is_some(), "{text}");
        }
        assert_eq!(hmac_key(&Secret::new("-_8B".into())).unwrap().expose(), [0xfb, 0xff, 1]);
        assert!(hmac_key(&Secret::new("not base64!".into())).is_none());
    }
}
