//! What goes with a peer to our connector, beside what Pingora knows of a peer: how it is secured, and what counts it.

use std::sync::Arc;

use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;

use super::{gates::Connections, secured::Security};

/// What goes with a peer.
#[derive(Clone, Default)]
pub(super) struct Carried {
    /// `None` where no TLS is spoken.
    pub(super) security: Option<Arc<Security>>,
    /// `None` where nobody counts.
    pub(super) connections: Option<Arc<Connections>>,
}

impl Carried {
    /// Puts it on a peer. Pingora has no place there for a value of ours, but one for a function that gives one: it is
    /// meant for proxies between us and the endpoint, which no peer of ours has, and so never called by Pingora.
    pub(super) fn put_on(self, peer: &mut HttpPeer) {
        peer.options.proxy_digest_user_data_hook =
            Some(Arc::new(move |_, _| Some(Box::new(self.clone()))));
    }

    /// That which was put on a peer; nothing where nothing was.
    pub(super) fn of(peer: &HttpPeer) -> Self {
        let carried = || {
            let hook = peer.options.proxy_digest_user_data_hook.as_ref()?;
            let (request, ()) = http::Request::new(()).into_parts();
            let answer = ResponseHeader::build(http::StatusCode::OK, None).ok()?;
            hook(&request, &answer)?.downcast().ok().map(|carried| *carried)
        };
        carried().unwrap_or_default()
    }
}
