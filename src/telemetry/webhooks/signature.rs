//! Signatures by the scheme of Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::types::Secret;

/// What a secret in base64 begins with.
const PREFIX: &[u8] = b"whsec_";

/// A secret that begins with `whsec_` and does not go on in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what follows `whsec_` in the webhook's secret is no base64")]
pub(super) struct BadSecret;

/// The value of `webhook-signature`.
pub(super) fn signature(
    secret: &Secret,
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> Result<String, BadSecret> {
    let written = secret.expose();
    let key = match written.strip_prefix(PREFIX) {
        Some(coded) => {
            let decoded = Zeroizing::new(STANDARD.decode(coded).map_err(|_| BadSecret)?);
            if decoded.is_empty() {
                return Err(BadSecret);
            }
            hmac::Key::new(hmac::HMAC_SHA256, &decoded)
        }
        None => hmac::Key::new(hmac::HMAC_SHA256, written),
    };
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    Ok(format!("v1,{}", STANDARD.encode(context.sign())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(secret: &str) -> Result<String, BadSecret> {
        let secret = Secret::new(secret.as_bytes().to_vec());
        signature(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        )
    }

    #[test]
    fn a_signature_is_the_one_of_the_published_example() {
        // The example of the reference libraries of Standard Webhooks.
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(), expected);
        assert_ne!(signed("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(), expected);
    }

    #[test]
    fn a_secret_that_does_not_decode_signs_nothing() {
        for bad in ["whsec_", "whsec_***", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"] {
            assert_eq!(signed(bad), Err(BadSecret), "{bad}");
        }
    }
}
