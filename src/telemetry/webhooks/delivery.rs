//! The task of one webhook: takes its events, sends them, and rests after a failed try.
//!
//! URL, secret and authorities are read from their files for each try, so that a changed one counts at once. The client
//! lives for as long as events wait: between them it would hold a list of authorities for nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use tracing::{debug, error, info, warn};

use super::{
    Event, Hook, SecretReader, Shared, WebhookConfig, WebhookUrl,
    again::{Answered, GIVE_UP, judge, pause},
    signature::{BadSecret, signature},
};
use crate::{
    telemetry::{
        metrics::WebhookResult,
        outgoing::{Authorities, Outgoing, OutgoingError},
    },
    types::{HttpUrl, HttpUrlError, Secret},
};

/// Tells what is in the queue for `hook`, until it is gone.
pub(super) async fn keep_telling(shared: Arc<Shared>, hook: Arc<Hook>) {
    let mut client = None;
    let mut failures: u32 = 0;
    while !hook.gone.is_cancelled() {
        let Some(waiting) = shared.take(&hook) else {
            client = None;
            hook.gone.run_until_cancelled(hook.filled.notified()).await;
            continue;
        };
        let (webhook, event) = (&*hook.name, &*waiting.event.id);
        let kind = waiting.event.kind.word();
        if waiting.since.elapsed() >= GIVE_UP {
            shared.end(&hook, WebhookResult::Failed);
            error!(webhook, event, kind, "webhook not told of an event: it has waited for an hour");
            continue;
        }
        match tell(shared.read, &hook, &waiting.event, &mut client).await {
            Tried::Gone => shared.end(&hook, WebhookResult::Dropped),
            Tried::Taken => {
                shared.end(&hook, WebhookResult::Sent);
                if failures > 0 {
                    info!(webhook, failures, "webhook takes events again");
                }
                debug!(webhook, event, kind, "webhook told");
                failures = 0;
            }
            Tried::Refused(why) => {
                hook.metrics.failed_try();
                shared.end(&hook, WebhookResult::Failed);
                error!(webhook, event, kind, error = %why, "webhook refuses an event: it is not told again");
                failures = 0;
            }
            Tried::Later(why, asked_for) => {
                hook.metrics.failed_try();
                failures = failures.saturating_add(1);
                if failures == 1 {
                    warn!(webhook, event, kind, error = %why, "webhook can't be told: it is tried again for an hour");
                } else {
                    debug!(webhook, event, kind, error = %why, "webhook still can't be told");
                }
                // Its authorities may be what is wrong.
                client = None;
                shared.put_back(&hook, waiting);
                rest(&hook, pause(failures, asked_for, fastrand::f64())).await;
            }
        }
    }
}

/// Waits for the next try; a changed configuration is tried at once.
async fn rest(hook: &Hook, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = hook.changed.notified() => {}
        () = hook.gone.cancelled() => {}
    }
    hook.is_resting.store(false, Ordering::Release);
}

/// What became of one try.
enum Tried {
    Taken,
    /// The webhook is no longer configured: nothing was sent.
    Gone,
    /// Another try would end in the same way.
    Refused(Failure),
    /// It may work later; not before this, where the answer says so.
    Later(Failure, Option<Duration>),
}

/// Why a webhook was not told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Unread(String),
    #[error("its URL can't be used: {0}")]
    Url(#[from] HttpUrlError),
    #[error(transparent)]
    Signature(#[from] BadSecret),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error("{to}: {source}")]
    Outgoing {
        /// Its origin.
        to: HttpUrl,
        source: OutgoingError,
    },
    #[error("{to} answers {status}")]
    Answer { to: HttpUrl, status: StatusCode },
}

async fn tell(
    read: SecretReader,
    hook: &Hook,
    event: &Event,
    client: &mut Option<Client>,
) -> Tried {
    let config = hook.config.load_full();
    let (at_hand, timeout) = (client.take(), config.timeout);
    let body = event.body(config.format);
    let prepared =
        tokio::task::spawn_blocking(move || Prepared::read(&config, read, at_hand)).await;
    let prepared = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(failure)) => return Tried::Later(failure, None),
        Err(panicked) => return Tried::Later(Failure::Unread(panicked.to_string()), None),
    };
    let to = prepared.url.clone();
    let request = match prepared.request(event, body) {
        Ok(request) => request,
        Err(failure @ Failure::Signature(_)) => return Tried::Later(failure, None),
        Err(failure) => return Tried::Refused(failure),
    };
    if hook.gone.is_cancelled() {
        // A reload has taken it out meanwhile. What is on its way from here on goes through.
        return Tried::Gone;
    }
    let answer = prepared.client.outgoing.tell(request, timeout).await;
    *client = Some(prepared.client);
    let head = match answer {
        Ok(head) => head,
        Err(source) => return Tried::Later(Failure::Outgoing { to, source }, None),
    };
    let failure = Failure::Answer { to, status: head.status };
    match judge(head.status, &head.headers, SystemTime::now()) {
        Answered::Taken => Tried::Taken,
        Answered::Refused => Tried::Refused(failure),
        Answered::Later(after) => Tried::Later(failure, after),
    }
}

/// What sends, and what it was made for.
struct Client {
    outgoing: Outgoing,
    is_https: bool,
    authorities: Option<Authorities>,
}

/// All that a try needs of files and variables.
struct Prepared {
    url: HttpUrl,
    secret: Option<Secret>,
    client: Client,
}

impl Prepared {
    /// Blocks on files.
    fn read(
        config: &WebhookConfig,
        read: SecretReader,
        at_hand: Option<Client>,
    ) -> Result<Self, Failure> {
        let url = match &config.url {
            WebhookUrl::Plain(url) => url.clone(),
            WebhookUrl::Secret(source) => {
                let secret = read(source).map_err(Failure::Unread)?;
                let text = std::str::from_utf8(secret.expose());
                text.map_err(|_| HttpUrlError::Malformed)?.parse::<HttpUrl>()?
            }
        };
        let secret = config.secret.as_ref().map(read).transpose().map_err(Failure::Unread)?;
        let refused = |source| Failure::Outgoing { to: url.clone(), source };
        let authorities = Authorities::of(&url, config.ca.as_deref()).map_err(refused)?;
        // With other authorities its connection is worth nothing either.
        let fits = |client: &Client| {
            client.is_https == url.is_https() && client.authorities == authorities
        };
        let client = match at_hand.filter(fits) {
            Some(client) => client,
            None => Client {
                outgoing: Outgoing::trusting(&url, authorities.as_ref()).map_err(refused)?,
                is_https: url.is_https(),
                authorities,
            },
        };
        Ok(Self { url, secret, client })
    }

    fn request(&self, event: &Event, body: Vec<u8>) -> Result<Request<Full<Bytes>>, Failure> {
        // Receivers compare it with their clock, so that nobody can play a request again later.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = Request::post(self.url.expose().clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("webhook-id", &event.id)
            .header("webhook-timestamp", now);
        if let Some(secret) = &self.secret {
            let signature = signature(secret, &event.id, now, &body)?;
            request = request.header("webhook-signature", signature);
        }
        Ok(request.body(Full::from(body))?)
    }
}
